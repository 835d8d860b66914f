// Threads that share the tasks of one operation at a time.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "memory.h"

namespace densecast {

// The caller of `run` works too. It waits for tasks that a worker has begun, never for a worker: on a busy machine a
// worker may be away for milliseconds, and then the caller does all by itself.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // with the caller; at least 1
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls f(task, thread) for every task below `tasks`, thread below threads(). f must not throw. One caller at a time.
  template <typename F>
  void run(int tasks, const F& f) {
    run(tasks, [](const void* context, int task, int thread) { (*static_cast<const F*>(context))(task, thread); }, &f);
  }

  // Programs on one pool take turns: whoever runs one holds this.
  std::mutex& turn() { return turn_; }

  Buffer arena;
  Buffer shared;                // scratch of an operation
  std::vector<Buffer> scratch;  // scratch of an operation, by thread

 private:
  using Function = void (*)(const void* context, int task, int thread);

  void run(int tasks, Function function, const void* context);
  bool work_once(int thread);
  void work(int thread);

  // Tasks (high half) and the next task (low half) in one number: who changes it from the value it has read has claimed
  // a task of the job that is running now. The job's own fields are read after that.
  std::atomic<std::uint64_t> ticket_{0};
  std::atomic<int> done_{0};
  Function function_ = nullptr;
  const void* context_ = nullptr;

  std::atomic<bool> stop_{false};
  std::atomic<int> asleep_{0};
  std::mutex sleep_;
  std::condition_variable wake_;
  std::mutex turn_;
  int threads_;
  std::vector<std::thread> workers_;
};

}  // namespace densecast
