// Convolution by minimal filtering: tiles of outputs from sums of products, point by point a matrix product over the
// tiles.
#include <stdexcept>

#include "program.h"
#include "transforms.h"

namespace densecast {
namespace {

constexpr std::int64_t kOwnWeights = 6 << 20;   // bytes that every task may read from a shared cache
constexpr std::int64_t kOwnInputs = 320 << 10;  // bytes of transformed inputs in a thread's cache
constexpr std::int64_t kProducts = 384 << 10;   // bytes of products in a thread's cache
constexpr std::int64_t kLeastShared = 4 << 20;  // bytes of transformed inputs in the shared cache
constexpr std::int64_t kMostShared = 12 << 20;
constexpr int kTaskPanels = 4;

class TiledConvolution final : public Operation {
 public:
  explicit TiledConvolution(Convolution c)
      : c_(std::move(c)),
        inputs_{transform_of(c_.vertical.inputs, c_.vertical.points, c_.vertical.points, true),
                transform_of(c_.horizontal.inputs, c_.horizontal.points, c_.horizontal.points, true)},
        outputs_{transform_of(c_.vertical.outputs, c_.vertical.outputs_rows, c_.vertical.points, false),
                 transform_of(c_.horizontal.outputs, c_.horizontal.outputs_rows, c_.horizontal.points, false)} {
    first_tile_.push_back(0);
    for (int image : c_.images)
      first_tile_.push_back(first_tile_.back() + tiles_down(image) * static_cast<std::int64_t>(tiles_across(image)));
    const Filters& filters = *c_.filters;
    const int outside = filters.shape.outside, padded = filters.panels() * kPanelOutputs;
    if (!c_.bias.empty()) {
      bias_.assign(static_cast<std::size_t>(padded) * c_.groups + kSlack, 0.0f);
      for (int o = 0; o < outside * c_.groups; ++o) bias_[o / outside * padded + o % outside] = c_.bias[o];
    }
    zeros_.assign(static_cast<std::size_t>(filters.shape.inside) + kSlack, 0.0f);
    row_ = odd_lines(filters.shape.inside);
  }

  void run(const Context& context) const override {
    const std::int64_t tiles = first_tile_.back();
    if (!tiles) return;
    // Where weights are few, each task computes some tiles from the first to the last step. Where they are many, all
    // tiles are transformed first, and then each task reads the weights of some outputs, once.
    const int threads = context.pool.threads(), tile_rows = context.kernels.tile_rows;
    const std::int64_t input_bytes = c_.filters->points() * row_ * 4;  // of a tile
    const std::int64_t own = std::max<std::int64_t>(kOwnInputs / input_bytes / tile_rows, 2) * tile_rows;
    const std::int64_t weight_bytes = c_.filters->floats() * 4;
    const bool few = weight_bytes <= kOwnWeights && (threads == 1 || tiles * c_.groups >= 4 * threads * own);
    if (few) {
      run_own(context, own);
    } else {
      // Each chunk of tiles reads all weights again.
      const std::int64_t shared = std::clamp(weight_bytes / 6, kLeastShared, kMostShared);
      run_shared(context, std::max<std::int64_t>(shared / (input_bytes * c_.groups) / tile_rows, 2) * tile_rows);
    }
  }

 private:
  struct Chunk {
    std::int64_t first;
    int tiles;
    int panels;                                 // that are multiplied by one task
    std::int64_t input_stride, product_stride;  // from point to point
  };

  struct Place {
    int image, y, x;  // of the tile's first output
  };

  Chunk chunk_of(std::int64_t first, std::int64_t tiles, int panels) const {
    return {first, static_cast<int>(tiles), panels, odd_lines(tiles * row_), odd_lines(tiles * panels * kPanelOutputs)};
  }
  std::int64_t input_floats(const Chunk& chunk) const { return chunk.input_stride * c_.filters->points() + kSlack; }
  std::int64_t product_floats(const Chunk& chunk) const { return chunk.product_stride * c_.filters->points() + kSlack; }

  void run_own(const Context& context, std::int64_t most) const {
    const std::int64_t tiles = first_tile_.back(), chunks = (tiles + most - 1) / most;
    // Of few chunks all are alike; of many all but the last are whole tiles of the product.
    const std::int64_t even = chunks < 16 ? (tiles + chunks - 1) / chunks : most;
    const int panels = context.kernels.tile_panels;
    const Chunk largest = chunk_of(0, even, panels);
    for (auto& scratch : context.pool.scratch)
      scratch.grow(static_cast<std::size_t>(input_floats(largest) + product_floats(largest)));
    context.pool.run(static_cast<int>(chunks * c_.groups), [&](int task, int thread) {
      const int group = static_cast<int>(task / chunks);
      const std::int64_t first = task % chunks * even;
      if (first >= tiles) return;
      const Chunk chunk = chunk_of(first, std::min(even, tiles - first), panels);
      float* inputs = context.pool.scratch[thread].data();
      float* products = inputs + input_floats(largest);
      for (int tile = 0; tile < chunk.tiles; ++tile) transform(context, chunk, tile, group, inputs);
      for (int panel = 0; panel < c_.filters->panels(); panel += panels)
        multiply(context, chunk, group, panel, inputs, products);
    });
  }

  void run_shared(const Context& context, std::int64_t most) const {
    const std::int64_t tiles = first_tile_.back(), chunks = (tiles + most - 1) / most;
    const std::int64_t even = (tiles + chunks - 1) / chunks;
    // Several panels share the reading of the inputs, if their products fit the cache and there are tasks enough.
    const int all = c_.filters->panels(), threads = context.pool.threads();
    const std::int64_t fitting = kProducts / (even * c_.filters->points() * kPanelOutputs * 4);
    const std::int64_t wanted = std::min<std::int64_t>({kTaskPanels, fitting, all * c_.groups / (4 * threads)});
    const int at_once = std::max(context.kernels.tile_panels, static_cast<int>(wanted));
    const int panels = (all + at_once - 1) / at_once;
    const Chunk largest = chunk_of(0, even, at_once);
    for (auto& scratch : context.pool.scratch) scratch.grow(static_cast<std::size_t>(product_floats(largest)));
    context.pool.shared.grow(static_cast<std::size_t>(input_floats(largest) * c_.groups));
    float* inputs = context.pool.shared.data();
    for (std::int64_t first = 0; first < tiles; first += even) {
      const Chunk chunk = chunk_of(first, std::min(even, tiles - first), at_once);
      context.pool.run(chunk.tiles * c_.groups, [&](int task, int) {
        const int group = task / chunk.tiles;
        transform(context, chunk, task % chunk.tiles, group, inputs + group * input_floats(largest));
      });
      context.pool.run(panels * c_.groups, [&](int task, int thread) {
        const int group = task / panels;
        multiply(context, chunk, group, task % panels * at_once, inputs + group * input_floats(largest),
                 context.pool.scratch[thread].data());
      });
    }
  }

  Place place_of(std::int64_t tile) const {
    const auto index =
        static_cast<std::size_t>(std::upper_bound(first_tile_.begin(), first_tile_.end(), tile) - first_tile_.begin()) -
        1;
    const int image = c_.images[index], across = tiles_across(image);
    const std::int64_t of_image = tile - first_tile_[index];
    return {image, static_cast<int>(of_image / across) * c_.vertical.outputs_rows,
            static_cast<int>(of_image % across) * c_.horizontal.outputs_rows};
  }

  void transform(const Context& context, const Chunk& chunk, int tile, int group, float* inputs) const {
    const Place place = place_of(chunk.first + tile);
    const Blob& bottom = c_.bottom;
    const int height = bottom.heights[place.image], width = bottom.widths[place.image];
    const int down = c_.vertical.points, across = c_.horizontal.points;
    const float* image =
        context.arena + bottom.offsets[place.image] + static_cast<std::int64_t>(group) * c_.filters->shape.inside;
    const float* pixels[kLargestTransform * kLargestTransform];
    for (int i = 0; i < down; ++i) {
      const int y = place.y - c_.pad.y + i;
      for (int j = 0; j < across; ++j) {
        const int x = place.x - c_.pad.x + j;
        const bool inside = y >= 0 && y < height && x >= 0 && x < width;
        pixels[i * across + j] =
            inside ? image + (static_cast<std::int64_t>(y) * width + x) * bottom.stride : zeros_.data();
      }
    }
    context.kernels.transform_input(
        {pixels, c_.filters->shape.inside, inputs + tile * row_, chunk.input_stride, &inputs_[0], &inputs_[1]});
  }

  // Multiplies all tiles of the chunk with a few panels of weights, and transforms the products to outputs.
  void multiply(const Context& context, const Chunk& chunk, int group, int panel, const float* inputs,
                float* products) const {
    const Filters& filters = *c_.filters;
    const int panels = std::min(chunk.panels, filters.panels() - panel);
    const int outputs = std::min(panels * kPanelOutputs, filters.shape.outside - panel * kPanelOutputs);
    Multiply m{};
    m.a = inputs;
    m.a_stride = row_;
    m.rows = chunk.tiles;
    m.depth = filters.shape.inside;
    if (std::max(c_.vertical.points, c_.horizontal.points) > kMostPoints) m.block = kShortBlock;
    m.b = filters.tiled_panel(group, panel);
    m.panel_stride = filters.points() * filters.shape.inside * kPanelOutputs;
    m.outputs = panels * kPanelOutputs;
    m.c = products;
    m.c_stride = panels * kPanelOutputs;
    m.first = true;
    // Where no tile has more than a single row, infinity's products are not needed.
    m.down = c_.vertical.points - (outputs_[0].infinity && !any_full(chunk, true));
    m.across = c_.horizontal.points - (outputs_[1].infinity && !any_full(chunk, false));
    m.points_across = c_.horizontal.points;
    m.a_point = chunk.input_stride;
    m.b_point = static_cast<std::int64_t>(filters.shape.inside) * kPanelOutputs;
    m.c_point = chunk.product_stride;
    context.kernels.multiply(m);
    for (int p = 0; p < panels; ++p)
      finish(context, chunk, group, panel + p, std::min(kPanelOutputs, outputs - p * kPanelOutputs),
             products + p * kPanelOutputs, panels * kPanelOutputs);
  }

  // Transforms the products of one panel, of a stride from tile to tile, to outputs.
  void finish(const Context& context, const Chunk& chunk, int group, int panel, int outputs, const float* products,
              int stride) const {
    const std::int64_t first_output =
        static_cast<std::int64_t>(group) * c_.filters->shape.outside + panel * kPanelOutputs;
    OutputTile out{};
    out.point_stride = chunk.product_stride;
    out.outputs = outputs;
    out.vertical = &outputs_[0];
    out.horizontal = &outputs_[1];
    out.finish.bias = bias_.empty() ? nullptr
                                    : bias_.data() + (static_cast<std::int64_t>(group) * c_.filters->panels() + panel) *
                                                         kPanelOutputs;
    out.finish.rectify = c_.rectify;
    out.finish.slope = c_.slope;
    // The pixels of the next tile are fetched while one is computed: stores that miss the cache would stop it.
    float* pixels[2][kLargestTransform * kLargestTransform];
    find_pixels(context, chunk, 0, first_output, pixels[0]);
    for (int tile = 0; tile < chunk.tiles; ++tile) {
      if (tile + 1 < chunk.tiles) find_pixels(context, chunk, tile + 1, first_output, pixels[(tile + 1) % 2]);
      out.products = products + static_cast<std::int64_t>(tile) * stride;
      out.pixels = pixels[tile % 2];
      context.kernels.transform_output(out);
    }
  }

  // Where a tile's outputs go; null for those that the top does not have.
  void find_pixels(const Context& context, const Chunk& chunk, int tile, std::int64_t first_output,
                   float** pixels) const {
    const Place place = place_of(chunk.first + tile);
    const Blob& top = c_.top;
    const int down = c_.vertical.outputs_rows, across = c_.horizontal.outputs_rows;
    const int height = std::min(down, top.heights[place.image] - place.y),
              width = std::min(across, top.widths[place.image] - place.x);
    std::fill(pixels, pixels + down * across, nullptr);
    for (int i = 0; i < height; ++i) {
      float* pixel = context.arena + top.at(place.image, place.y + i, place.x) + first_output;
      for (int j = 0; j < width; ++j, pixel += top.stride) {
        __builtin_prefetch(pixel, 1);
        pixels[i * across + j] = pixel;
      }
    }
  }

  // Whether a tile of the chunk has all its rows (or columns).
  bool any_full(const Chunk& chunk, bool rows) const {
    for (int tile = 0; tile < chunk.tiles; ++tile) {
      const Place place = place_of(chunk.first + tile);
      if (rows ? place.y + c_.vertical.outputs_rows <= c_.top.heights[place.image]
               : place.x + c_.horizontal.outputs_rows <= c_.top.widths[place.image])
        return true;
    }
    return false;
  }

  int tiles_down(int image) const {
    return (c_.top.heights[image] + c_.vertical.outputs_rows - 1) / c_.vertical.outputs_rows;
  }
  int tiles_across(int image) const {
    return (c_.top.widths[image] + c_.horizontal.outputs_rows - 1) / c_.horizontal.outputs_rows;
  }

  Convolution c_;
  Transform inputs_[2], outputs_[2];  // vertical, horizontal
  std::vector<std::int64_t> first_tile_;
  std::vector<float> bias_, zeros_;
  std::int64_t row_;  // floats of a tile's channels at a point
};

}  // namespace

OperationPointer make_tiled(Convolution c) {
  if (c.stride.y != 1 || c.stride.x != 1 || c.dilation.y != 1 || c.dilation.x != 1)
    throw std::invalid_argument("A convolution by tiles has stride 1 and dilation 1.");
  for (const auto* t : {&c.vertical, &c.horizontal}) {
    const int points = t == &c.vertical ? c.filters->vertical : c.filters->horizontal;
    const int taps = t == &c.vertical ? c.kernel.y : c.kernel.x;
    if (t->points != points || points > kLargestTransform || t->outputs_rows + taps - 1 != points ||
        t->outputs_rows < 1)
      throw std::invalid_argument("A convolution's tile does not fit its kernel or its filters' points.");
  }
  return std::make_unique<TiledConvolution>(std::move(c));
}

}  // namespace densecast
