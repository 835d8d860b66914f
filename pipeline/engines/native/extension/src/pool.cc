#include "pool.h"

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace densecast {
namespace {

constexpr auto kSpin = std::chrono::microseconds(60);  // between the operations of a program nobody falls asleep

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

bool has_task(std::uint64_t ticket) { return static_cast<std::uint32_t>(ticket) < ticket >> 32; }

}  // namespace

ThreadPool::ThreadPool(int threads) : threads_(threads) {
  scratch.resize(static_cast<std::size_t>(threads));
  for (int thread = 1; thread < threads; ++thread) workers_.emplace_back([this, thread] { work(thread); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(sleep_);
    stop_ = true;
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

bool ThreadPool::work_once(int thread) {
  std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (has_task(ticket)) {
    if (ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) {
      function_(context_, static_cast<int>(static_cast<std::uint32_t>(ticket)), thread);
      done_.fetch_add(1, std::memory_order_release);
      return true;
    }
  }
  return false;
}

void ThreadPool::run(int tasks, Function function, const void* context) {
  if (tasks <= 0) return;
  if (tasks == 1 || workers_.empty()) {
    for (int task = 0; task < tasks; ++task) function(context, task, 0);
    return;
  }
  function_ = function;
  context_ = context;
  done_.store(0, std::memory_order_relaxed);
  ticket_.store(static_cast<std::uint64_t>(tasks) << 32);
  if (asleep_.load() > 0) {
    std::lock_guard<std::mutex> lock(sleep_);
    wake_.notify_all();
  }
  while (work_once(0)) {
  }
  for (int spins = 0; done_.load(std::memory_order_acquire) < tasks; ++spins) {
    if (spins < 4096) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::work(int thread) {
  while (!stop_) {
    const auto idle_from = std::chrono::steady_clock::now();
    bool worked = false;
    while (!worked && std::chrono::steady_clock::now() - idle_from < kSpin) {
      worked = work_once(thread);
      for (int i = 0; !worked && i < 16; ++i) pause();
    }
    if (worked) continue;
    std::unique_lock<std::mutex> lock(sleep_);
    asleep_.fetch_add(1);
    wake_.wait(lock, [this] { return stop_ || has_task(ticket_.load()); });
    asleep_.fetch_sub(1);
  }
}

}  // namespace densecast
