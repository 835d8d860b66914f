// Convolution as a matrix product: a row for each output pixel of all images, of its taps' channels.
#include <cstring>
#include <stdexcept>

#include "program.h"

namespace densecast {
namespace {

constexpr int kRows = 192;  // of a task: a block of their depth stays in the second-level cache
constexpr int kPanelsWorthPacking = 8;

class DirectConvolution final : public Operation {
 public:
  explicit DirectConvolution(Convolution c) : c_(std::move(c)) {
    first_row_.push_back(0);
    for (int image : c_.images)
      first_row_.push_back(first_row_.back() + static_cast<std::int64_t>(c_.top.heights[image]) * c_.top.widths[image]);
    const int outside = c_.filters->shape.outside, padded = c_.filters->panels() * kPanelOutputs;
    if (!c_.bias.empty()) {
      bias_.assign(static_cast<std::size_t>(padded) * c_.groups + kSlack, 0.0f);
      for (int o = 0; o < outside * c_.groups; ++o) bias_[o / outside * padded + o % outside] = c_.bias[o];
    }
    pointwise_ =
        c_.kernel.y == 1 && c_.kernel.x == 1 && c_.pad.y == 0 && c_.pad.x == 0 && c_.stride.y == 1 && c_.stride.x == 1;
  }

  void run(const Context& context) const override {
    const std::int64_t rows = first_row_.back();
    if (!rows) return;
    const int panels = c_.filters->panels(), threads = context.pool.threads();
    const std::int64_t chunks = (rows + kRows - 1) / kRows;
    const int tile_rows = context.kernels.tile_rows;
    const int chunk_rows = static_cast<int>((rows + chunks - 1) / chunks + tile_rows - 1) / tile_rows * tile_rows;
    // Tasks differ in time; four a thread let the fast ones take more. Each packs its own rows, which eight panels are
    // worth.
    const std::int64_t others = chunks * c_.groups;
    const std::int64_t wanted =
        threads == 1 ? 1 : std::min<std::int64_t>((4 * threads + others - 1) / others, panels / kPanelsWorthPacking);
    const int splits = static_cast<int>(std::max<std::int64_t>(1, wanted));
    for (auto& scratch : context.pool.scratch)
      scratch.grow(static_cast<std::size_t>(kRows * odd_lines(kDepthBlock) + kSlack));
    context.pool.run(static_cast<int>(others * splits), [&](int task, int thread) {
      // Tasks that follow each other read the same weights.
      const int chunk = static_cast<int>(task % chunks);
      const int split = static_cast<int>(task / chunks % splits), group = static_cast<int>(task / chunks / splits);
      Part part;
      part.row = static_cast<std::int64_t>(chunk) * chunk_rows;
      part.rows = static_cast<int>(std::min<std::int64_t>(chunk_rows, rows - part.row));
      part.group = group;
      part.panel = static_cast<int>(static_cast<std::int64_t>(panels) * split / splits);
      part.panels = static_cast<int>(static_cast<std::int64_t>(panels) * (split + 1) / splits) - part.panel;
      if (part.rows > 0) compute(context, part, context.pool.scratch[thread].data());
    });
  }

 private:
  struct Part {
    std::int64_t row;
    int rows;
    int group;
    int panel, panels;
  };

  struct Place {
    int image, y, x;
  };

  // The index in c_.images of a row's image.
  std::size_t image_of(std::int64_t row) const {
    return static_cast<std::size_t>(std::upper_bound(first_row_.begin(), first_row_.end(), row) - first_row_.begin()) -
           1;
  }

  template <typename F>
  void for_places(const Part& part, const F& f) const {
    std::size_t index = image_of(part.row);
    for (int r = 0; r < part.rows;) {
      while (part.row + r >= first_row_[index + 1]) ++index;
      const int image = c_.images[index], width = c_.top.widths[image];
      const std::int64_t pixel = part.row + r - first_row_[index];
      int y = static_cast<int>(pixel / width), x = static_cast<int>(pixel % width);
      const int end = static_cast<int>(std::min<std::int64_t>(part.rows, first_row_[index + 1] - part.row));
      for (; r < end; ++r) {
        f(r, Place{image, y, x});
        if (++x == width) {
          x = 0;
          ++y;
        }
      }
    }
  }

  void compute(const Context& context, const Part& part, float* packed) const {
    const Filters& filters = *c_.filters;
    const int inside = filters.shape.inside, outside = filters.shape.outside, depth = filters.depth();
    const std::int64_t first_output = static_cast<std::int64_t>(part.group) * outside + part.panel * kPanelOutputs;
    float* tops[kRows + 16];
    for_places(part,
               [&](int r, const Place& p) { tops[r] = context.arena + c_.top.at(p.image, p.y, p.x) + first_output; });
    Multiply m{};
    m.rows = part.rows;
    m.outputs = std::min(part.panels * kPanelOutputs, outside - part.panel * kPanelOutputs);
    m.c_rows = tops;
    m.down = m.across = m.points_across = 1;
    m.finish.bias =
        bias_.empty()
            ? nullptr
            : bias_.data() + (static_cast<std::int64_t>(part.group) * filters.panels() + part.panel) * kPanelOutputs;
    m.finish.rectify = c_.rectify;
    m.finish.slope = c_.slope;
    const std::size_t first_image = image_of(part.row);
    // Pixels of one image are rows already. At some strides they would fall on the same banks or sets of the cache.
    const bool in_place = pointwise_ && part.row + part.rows <= first_row_[first_image + 1] &&
                          (c_.bottom.stride % 64 != 0 || part.panels < kPanelsWorthPacking);
    const float* rows_in_place = context.arena + c_.bottom.offsets[c_.images[first_image]] +
                                 (part.row - first_row_[first_image]) * c_.bottom.stride +
                                 static_cast<std::int64_t>(part.group) * inside;
    const int blocks = (depth + kDepthBlock - 1) / kDepthBlock;
    for (int block = 0; block < blocks; ++block) {
      const int from = block * kDepthBlock;
      m.depth = std::min(kDepthBlock, depth - from);
      if (in_place) {
        m.a = rows_in_place + from;
        m.a_stride = c_.bottom.stride;
      } else {
        m.a = packed;
        m.a_stride = odd_lines(m.depth);
        const Term term = term_at(from);
        for_places(part, [&](int r, const Place& p) {
          pack(context.arena, p, part.group, term, m.depth, packed + r * m.a_stride);
        });
      }
      m.b = filters.direct_panel(part.group, block, part.panel);
      m.panel_stride = static_cast<std::int64_t>(m.depth) * kPanelOutputs;
      m.first = block == 0;
      m.last = block + 1 == blocks;
      m.ahead = m.last ? nullptr : filters.direct_panel(part.group, block + 1, part.panel);
      context.kernels.multiply(m);
    }
  }

  // Where a block of depth begins in the kernel.
  struct Term {
    int tap_y, tap_x, channel;
  };

  Term term_at(int from) const {
    const int inside = c_.filters->shape.inside, tap = from / inside;
    return {tap / c_.kernel.x, tap % c_.kernel.x, from % inside};
  }

  // Writes so many terms of the row of one output pixel, from a term on.
  void pack(const float* arena, const Place& place, int group, Term term, int terms, float* out) const {
    const Blob& bottom = c_.bottom;
    const int inside = c_.filters->shape.inside;
    const int height = bottom.heights[place.image], width = bottom.widths[place.image];
    const int first_y = place.y * c_.stride.y - c_.pad.y, first_x = place.x * c_.stride.x - c_.pad.x;
    const float* image = arena + bottom.offsets[place.image] + static_cast<std::int64_t>(group) * inside;
    // Taps of a row of the kernel that lie side by side in the arena are copied at once.
    const bool runs = c_.dilation.x == 1 && bottom.stride == inside && first_x >= 0 && first_x + c_.kernel.x <= width;
    while (terms > 0) {
      const int y = first_y + term.tap_y * c_.dilation.y, x = first_x + term.tap_x * c_.dilation.x;
      const int taps = runs ? c_.kernel.x - term.tap_x : 1;
      const int count = std::min(terms, taps * inside - term.channel);
      if (y >= 0 && y < height && x >= 0 && x < width) {
        copy_fours(image + (static_cast<std::int64_t>(y) * width + x) * bottom.stride + term.channel, count, out);
      } else {
        std::fill(out, out + count, 0.0f);
      }
      out += count;
      terms -= count;
      term.channel = 0;
      term.tap_x += taps;
      if (term.tap_x == c_.kernel.x) {
        term.tap_x = 0;
        ++term.tap_y;
      }
    }
  }

  // Copies in fours, up to three floats too many: what is written too much is written again, or is slack.
  static void copy_fours(const float* from, int count, float* to) {
    for (int i = 0; i < count; i += 4) std::memcpy(to + i, from + i, 4 * sizeof(float));
  }

  Convolution c_;
  std::vector<std::int64_t> first_row_;  // of each image, and of all
  std::vector<float> bias_;              // padded to whole panels
  bool pointwise_;
};

}  // namespace

OperationPointer make_direct(Convolution convolution) {
  return std::make_unique<DirectConvolution>(std::move(convolution));
}

OperationPointer make(Convolution c) {
  if (c.tiled != c.filters->tiled())
    throw std::invalid_argument("A convolution's tile does not fit its filters' form.");
  const FilterShape& shape = c.filters->shape;
  if (shape.groups != c.groups || shape.height != c.kernel.y || shape.width != c.kernel.x ||
      shape.inside * c.groups != c.bottom.channels || shape.outside * c.groups != c.top.channels)
    throw std::invalid_argument("A convolution's kernel, groups or channels do not fit its filters.");
  if (!c.bias.empty() && static_cast<int>(c.bias.size()) != c.top.channels)
    throw std::invalid_argument("A convolution's bias does not fit its top.");
  return c.tiled ? make_tiled(std::move(c)) : make_direct(std::move(c));
}

}  // namespace densecast
