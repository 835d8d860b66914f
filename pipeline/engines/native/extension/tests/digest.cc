// Prints a digest of what the kernels compute, for every instruction set of this processor: equal on all processors.
// A program of its own, so that it runs where there is no Python: on an emulated Arm, for one (tests/compare).
#include <cstdio>
#include <cstring>

#include "../src/isa.h"
#include "../src/program.h"

using namespace densecast;

namespace {

// Numbers that every machine makes alike.
class Random {
 public:
  std::uint32_t next() {
    state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<std::uint32_t>(state_ >> 33);
  }
  float number() { return (static_cast<float>(next() % 256) - 128.0f) / 512.0f; }
  std::vector<float> numbers(std::size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = number();
    return values;
  }

 private:
  std::uint64_t state_ = 1;
};

struct Size {
  int height, width;
};

class Net {
 public:
  Net(ThreadPool& pool, const Kernels& kernels) : pool_(pool), kernels_(kernels) {}

  std::uint64_t digest() {
    const std::vector<Size> sizes = {{40, 33}, {27, 61}, {35, 35}};
    std::vector<std::vector<std::uint8_t>> bytes;
    std::vector<Image> images;
    for (const Size& size : sizes) {
      bytes.emplace_back(static_cast<std::size_t>(size.height) * size.width * 3);
      for (auto& byte : bytes.back()) byte = static_cast<std::uint8_t>(random_.next());
      images.push_back({bytes.back().data(), nullptr, size.height, size.width, 3});
    }
    Prepare prepare;
    top_ = prepare.top = blob(3, sizes);
    prepare.order = {2, 1, 0};
    prepare.mean = {104.0f, 117.0f, 123.0f};
    prepare.scale = 1.0f / 64;
    operations_.push_back(make(std::move(prepare)));
    convolution(1, 24, 5, 2, 0, false);
    add(Lrn{top_, blob(top_.channels, sizes_of(top_)), {5, 0.2f, 0.75f, 1.0f}});
    convolution(2, 20, 3, 1, 1, true);
    convolution(1, 300, 1, 1, 0, false);
    for (Function function : {Function::kSwish, Function::kTanh, Function::kElu, Function::kBnll, Function::kPower})
      add(Activation{top_, blob(top_.channels, sizes_of(top_)), function, {1.5f, 0.25f, 3.0f}, {}});
    convolution(1, 70, 3, 1, 1, true);
    Depthwise depthwise;
    depthwise.bottom = top_;
    depthwise.top = blob(top_.channels, sizes_of(top_));
    depthwise.weights = random_.numbers(static_cast<std::size_t>(top_.channels) * 9);
    depthwise.kernel = {3, 3};
    depthwise.stride = depthwise.dilation = depthwise.pad = {1, 1};
    add(std::move(depthwise));
    add(Lrn{top_, blob(top_.channels, sizes_of(top_)), {3, 0.5f, 0.6f, 2.0f}});
    Pooling pooling;
    pooling.bottom = top_;
    pooling.maximum = false;
    pooling.kernel = pooling.stride = {2, 2};
    pooling.top = blob(top_.channels, halves(top_));
    add(std::move(pooling));
    add(Softmax{top_, blob(top_.channels, sizes_of(top_))});

    Buffer arena(static_cast<std::size_t>(arena_) + kSlack);
    std::vector<std::vector<float>> tops;
    std::vector<void*> results;
    for (int i = 0; i < top_.images(); ++i) {
      tops.emplace_back(static_cast<std::size_t>(top_.heights[i]) * top_.widths[i] * top_.channels);
      results.push_back(tops.back().data());
    }
    operations_.push_back(make(Whole{top_, 0}));
    const Context context{pool_, kernels_, arena.data(), images, results};
    for (const auto& operation : operations_) operation->run(context);
    std::uint64_t hash = 14695981039346656037ULL;  // FNV-1a, by floats
    for (const auto& top : tops)
      for (float value : top) {
        std::uint32_t word;
        std::memcpy(&word, &value, 4);
        hash = (hash ^ word) * 1099511628211ULL;
      }
    return hash;
  }

 private:
  static std::vector<Size> sizes_of(const Blob& blob) {
    std::vector<Size> sizes;
    for (int i = 0; i < blob.images(); ++i) sizes.push_back({blob.heights[i], blob.widths[i]});
    return sizes;
  }
  static std::vector<Size> halves(const Blob& blob) {
    std::vector<Size> sizes;
    for (const Size& size : sizes_of(blob)) sizes.push_back({size.height / 2, size.width / 2});
    return sizes;
  }

  Blob blob(int channels, const std::vector<Size>& sizes) {
    Blob blob;
    blob.channels = channels;
    blob.stride = channels;
    for (const Size& size : sizes) {
      blob.offsets.push_back(arena_);
      blob.heights.push_back(size.height);
      blob.widths.push_back(size.width);
      arena_ += static_cast<std::int64_t>(size.height) * size.width * channels;
    }
    return blob;
  }

  template <typename T>
  void add(T operation) {
    top_ = operation.top;
    operations_.push_back(make(std::move(operation)));
  }

  // With tiles of 4: the points 0, 1, -1, 1/2, -1/2 and infinity.
  void convolution(int groups, int outside, int kernel, int stride, int pad, bool tiled) {
    const int inside = top_.channels / groups;
    const FilterShape shape{groups, kernel, kernel, inside, outside};
    const auto weights = random_.numbers(static_cast<std::size_t>(groups) * kernel * kernel * inside * outside);
    Convolution c;
    c.bottom = top_;
    std::vector<Size> sizes;
    for (const Size& size : sizes_of(top_))
      sizes.push_back({(size.height + 2 * pad - kernel) / stride + 1, (size.width + 2 * pad - kernel) / stride + 1});
    c.top = blob(groups * outside, sizes);
    c.kernel = {kernel, kernel};
    c.stride = {stride, stride};
    c.pad = {pad, pad};
    c.dilation = {1, 1};
    c.bias = random_.numbers(static_cast<std::size_t>(groups) * outside);
    c.rectify = true;
    for (int i = 0; i < top_.images(); ++i) c.images.push_back(i);
    c.groups = groups;
    if (tiled) {
      const std::vector<double> filters = {4,        0,        0,        2.0 / 3,  2.0 / 3,  2.0 / 3,
                                           2.0 / 3,  -2.0 / 3, 2.0 / 3,  -8.0 / 3, -4.0 / 3, -2.0 / 3,
                                           -8.0 / 3, 4.0 / 3,  -2.0 / 3, 0,        0,        1};
      c.tiled = true;
      c.vertical.points = 6;
      c.vertical.outputs_rows = 4;
      c.vertical.outputs = {1, 1, 1, 1,     1,     0, 0, 1, -1, 0.5f,   -0.5f,   0,
                            0, 1, 1, 0.25f, 0.25f, 0, 0, 1, -1, 0.125f, -0.125f, 1};
      c.vertical.inputs = {0.25f, 0,  -1.25f, 0, 1, 0, 0,    -0.25f, -0.25f, 1, 1, 0, 0,     0.25f, -0.25f, -1, 1, 0, 0,
                           -0.5f, -1, 0.5f,   1, 0, 0, 0.5f, -1,     -0.5f,  1, 0, 0, 0.25f, 0,     -1.25f, 0,  1};
      c.horizontal = c.vertical;
      c.filters = std::make_shared<Filters>(pack_tiled(pool_, kernels_, shape, weights.data(), filters, filters));
    } else {
      c.filters = std::make_shared<Filters>(pack_direct(pool_, shape, weights.data()));
    }
    add(std::move(c));
  }

  ThreadPool& pool_;
  const Kernels& kernels_;
  Random random_;
  Blob top_;
  std::int64_t arena_ = 0;
  std::vector<OperationPointer> operations_;
};

}  // namespace

int main() {
  for (const Kernels* kernels : available_kernels())
    for (int threads : {1, 3}) {
      ThreadPool pool(threads);
      std::printf("%s %d %016llx\n", kernels->name, threads,
                  static_cast<unsigned long long>(Net(pool, *kernels).digest()));
    }
}
