// The Python module: reads the operations of pipeline/engines/native/program.py, and runs them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "isa.h"
#include "operation_reading.h"
#include "program.h"

namespace nb = nanobind;

namespace densecast {
namespace {

struct Pool {
  Pool(int threads, const std::string& isa) : kernels(find_kernels(isa)), pool(threads) {}
  const Kernels& kernels;
  ThreadPool pool;
};

std::shared_ptr<Pool> make_pool(int threads, const std::optional<std::string>& isa) {
  if (threads < 1 || threads > 1024) throw std::invalid_argument("A pool has 1 to 1024 threads.");
  return std::make_shared<Pool>(threads, isa.value_or(""));
}

using Weights = nb::ndarray<const float, nb::ndim<5>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

std::vector<double> numbers(const Matrix& matrix) { return {matrix.data(), matrix.data() + matrix.size()}; }

std::shared_ptr<Filters> make_filters(Pool& pool, const Weights& weights, const std::optional<Matrix>& vertical,
                                      const std::optional<Matrix>& horizontal) {
  FilterShape shape;
  int* const sizes[] = {&shape.groups, &shape.height, &shape.width, &shape.inside, &shape.outside};
  for (int axis = 0; axis < 5; ++axis) {
    if (weights.shape(axis) < 1 || weights.shape(axis) > (1u << 24))
      throw std::invalid_argument("Filters without weights.");
    *sizes[axis] = static_cast<int>(weights.shape(axis));
  }
  if (vertical.has_value() != horizontal.has_value()) throw std::invalid_argument("One matrix of two is given.");
  nb::gil_scoped_release release;
  std::lock_guard<std::mutex> turn(pool.pool.turn());
  if (!vertical) return std::make_shared<Filters>(pack_direct(pool.pool, shape, weights.data()));
  for (const auto& [matrix, taps] : {std::pair(&*vertical, shape.height), std::pair(&*horizontal, shape.width)})
    if (static_cast<int>(matrix->shape(1)) != taps || matrix->shape(0) > kLargestTransform || matrix->shape(0) < 1)
      throw std::invalid_argument("A matrix of points does not fit the filters' taps, or has over 16 points.");
  return std::make_shared<Filters>(
      pack_tiled(pool.pool, pool.kernels, shape, weights.data(), numbers(*vertical), numbers(*horizontal)));
}

class Program {
 public:
  Program(const Program&) = delete;
  Program(std::shared_ptr<Pool> pool, const nb::sequence& operations, const nb::sequence& results, std::int64_t arena)
      : pool_(std::move(pool)), arena_(arena) {
    OperationReader reader(arena);
    for (nb::handle operation : operations) operations_.push_back(reader.operation(operation));
    for (nb::handle result : results) operations_.push_back(reader.result(result, shapes_));
    inputs_ = reader.inputs();
  }

  void run(const std::vector<nb::ndarray<nb::ro, nb::ndim<3>, nb::c_contig, nb::device::cpu>>& images,
           const std::vector<nb::ndarray<nb::ndim<3>, nb::c_contig, nb::device::cpu>>& results) {
    std::vector<Image> pixels;
    for (std::size_t i = 0; i < images.size(); ++i) {
      Image image;
      if (images[i].dtype() == nb::dtype<std::uint8_t>()) {
        image.bytes = static_cast<const std::uint8_t*>(images[i].data());
      } else if (images[i].dtype() == nb::dtype<float>()) {
        image.floats = static_cast<const float*>(images[i].data());
      } else {
        throw std::invalid_argument("Images are uint8 or float32.");
      }
      image.height = static_cast<int>(images[i].shape(0));
      image.width = static_cast<int>(images[i].shape(1));
      image.channels = static_cast<int>(images[i].shape(2));
      pixels.push_back(image);
    }
    if (pixels.size() != inputs_)
      throw std::invalid_argument("The program takes " + std::to_string(inputs_) + " images, not " +
                                  std::to_string(pixels.size()) + ".");
    if (results.size() != shapes_.size())
      throw std::invalid_argument("The program has " + std::to_string(shapes_.size()) + " results, not " +
                                  std::to_string(results.size()) + ".");
    std::vector<void*> pointers;
    for (std::size_t i = 0; i < results.size(); ++i) {
      const ResultShape& shape = shapes_[i];
      const auto& array = results[i];
      const bool type = array.dtype() == (shape.integers ? nb::dtype<std::int64_t>() : nb::dtype<float>());
      if (!type || static_cast<int>(array.shape(0)) != shape.height ||
          static_cast<int>(array.shape(1)) != shape.width || static_cast<int>(array.shape(2)) != shape.channels)
        throw std::invalid_argument("Result " + std::to_string(i) + " is not " +
                                    (shape.integers ? "int64" : "float32") + " [" + std::to_string(shape.height) +
                                    ", " + std::to_string(shape.width) + ", " + std::to_string(shape.channels) + "].");
      pointers.push_back(const_cast<void*>(static_cast<const void*>(array.data())));
    }
    nb::gil_scoped_release release;
    std::lock_guard<std::mutex> turn(pool_->pool.turn());
    pool_->pool.arena.grow(static_cast<std::size_t>(arena_) + kSlack);
    const Context context{pool_->pool, pool_->kernels, pool_->pool.arena.data(), pixels, pointers};
    for (const auto& operation : operations_) operation->run(context);
  }

 private:
  std::shared_ptr<Pool> pool_;
  std::vector<OperationPointer> operations_;
  std::vector<ResultShape> shapes_;
  std::int64_t arena_;
  std::size_t inputs_ = 0;
};

std::size_t bytes_of(const Pool& pool) {
  std::size_t floats = pool.pool.arena.size() + pool.pool.shared.size();
  for (const Buffer& scratch : pool.pool.scratch) floats += scratch.size();
  return floats * sizeof(float);
}

void trim(Pool& pool) {
  nb::gil_scoped_release release;
  std::lock_guard<std::mutex> turn(pool.pool.turn());
  pool.pool.arena = Buffer();
  pool.pool.shared = Buffer();
  for (Buffer& scratch : pool.pool.scratch) scratch = Buffer();
}

}  // namespace
}  // namespace densecast

NB_MODULE(densecast_native, module) {
  module.attr("__version__") = DENSECAST_VERSION;
  using namespace nb::literals;
  using namespace densecast;
  module.doc() = "Dense inference of convolutional networks on CPUs, with the same bits on every processor.";
  module.attr("DEPTH_BLOCK") = kDepthBlock;
  module.def(
      "isas",
      [] {
        std::vector<std::string> names;
        for (const Kernels* kernels : available_kernels()) names.emplace_back(kernels->name);
        return names;
      },
      "Returns the instruction sets that this processor has, the fastest first; none without fused multiply-add.");
  nb::class_<Pool>(module, "ThreadPool", "Threads, scratch memory, and the kernels of one instruction set.")
      .def(nb::new_(&make_pool), "threads"_a, "isa"_a = nb::none())
      .def_prop_ro("isa", [](const Pool& pool) { return pool.kernels.name; })
      .def_prop_ro("threads", [](const Pool& pool) { return pool.pool.threads(); })
      .def_prop_ro("arena_bytes", &bytes_of)
      .def("trim", &trim, "Frees the memory that runs have left for the next one.");
  nb::class_<Filters>(module, "Filters", "Packed weights of a convolution.")
      .def(nb::new_(&make_filters), "pool"_a, "weights"_a, "vertical"_a = nb::none(), "horizontal"_a = nb::none())
      .def_prop_ro("nbytes", [](const Filters& filters) { return filters.data.size() * sizeof(float); });
  nb::class_<densecast::Program>(module, "Program", "Operations over an arena.")
      .def(nb::init<std::shared_ptr<Pool>, const nb::sequence&, const nb::sequence&, std::int64_t>(), "pool"_a,
           "operations"_a, "results"_a, "arena"_a)
      .def("run", &densecast::Program::run, "images"_a, "results"_a.noconvert(),
           "Computes the results, which are written in place.");
}
