#include "operation_reading.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

namespace nb = nanobind;

namespace densecast {
namespace {

template <typename T>
T field(nb::handle source, const char* name) {
  return nb::cast<T>(source.attr(name));
}

Pair pair(nb::handle source, const char* name) {
  const auto values = field<std::vector<int>>(source, name);
  if (values.size() != 2) throw std::invalid_argument(std::string(name) + " is not a pair.");
  return {values[0], values[1]};
}

// At least `least` in both axes.
Pair pair(nb::handle source, const char* name, int least) {
  const Pair values = pair(source, name);
  if (values.y < least || values.x < least || values.y > (1 << 24) || values.x > (1 << 24))
    throw std::invalid_argument(std::string(name) + " is below " + std::to_string(least) + ", or large.");
  return values;
}

// Empty for None.
std::vector<float> floats(nb::handle source, const char* name) {
  const nb::object value = source.attr(name);
  if (value.is_none()) return {};
  const auto array = nb::cast<nb::ndarray<const float, nb::c_contig, nb::device::cpu>>(value);
  return {array.data(), array.data() + array.size()};
}

template <typename T>
void read_slope(nb::handle source, T& operation) {
  const nb::object slope = source.attr("slope");
  operation.rectify = !slope.is_none();
  if (operation.rectify) operation.slope = nb::cast<float>(slope);
}

template <typename T>
void read_window(nb::handle source, T& operation) {
  operation.kernel = pair(source, "kernel", 0);
  operation.stride = pair(source, "stride", 1);
  operation.pad = pair(source, "pad");
  operation.dilation = pair(source, "dilation", 1);
}

TransformMatrices transform(nb::handle source) {
  using Matrix = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
  const auto outputs = field<Matrix>(source, "outputs"), inputs = field<Matrix>(source, "inputs");
  if (outputs.shape(1) != inputs.shape(0) || inputs.shape(0) != inputs.shape(1) || inputs.shape(0) > kLargestTransform)
    throw std::invalid_argument("The matrices of a tile do not fit each other.");
  TransformMatrices matrices;
  matrices.points = static_cast<int>(inputs.shape(0));
  matrices.outputs_rows = static_cast<int>(outputs.shape(0));
  matrices.outputs.assign(outputs.data(), outputs.data() + outputs.size());
  matrices.inputs.assign(inputs.data(), inputs.data() + inputs.size());
  return matrices;
}

Function function(const std::string& kind) {
  static const std::pair<const char*, Function> kinds[] = {{"relu", Function::kRelu},
                                                           {"prelu", Function::kPrelu},
                                                           {"elu", Function::kElu},
                                                           {"sigmoid", Function::kSigmoid},
                                                           {"tanh", Function::kTanh},
                                                           {"abs", Function::kAbs},
                                                           {"power", Function::kPower},
                                                           {"exp", Function::kExp},
                                                           {"log", Function::kLog},
                                                           {"bnll", Function::kBnll},
                                                           {"threshold", Function::kThreshold},
                                                           {"clip", Function::kClip},
                                                           {"swish", Function::kSwish}};
  for (const auto& [name, value] : kinds)
    if (kind == name) return value;
  throw std::invalid_argument("There is no activation " + kind + ".");
}

}  // namespace

Blob OperationReader::blob(nb::handle source) const {
  Blob blob;
  blob.channels = field<int>(source, "channels");
  blob.stride = field<std::int64_t>(source, "stride");
  blob.offsets = field<std::vector<std::int64_t>>(source, "offsets");
  blob.heights = field<std::vector<int>>(source, "heights");
  blob.widths = field<std::vector<int>>(source, "widths");
  if (blob.channels < 1 || blob.stride < blob.channels || blob.heights.size() != blob.offsets.size() ||
      blob.widths.size() != blob.offsets.size())
    throw std::invalid_argument("A blob has no channels, a stride below them, or sizes of another batch.");
  for (int i = 0; i < blob.images(); ++i) {
    const std::int64_t pixels = static_cast<std::int64_t>(blob.heights[i]) * blob.widths[i];
    if (blob.heights[i] < 0 || blob.widths[i] < 0 || blob.offsets[i] < 0 ||
        (pixels && blob.offsets[i] + (pixels - 1) * blob.stride + blob.channels > arena_))
      throw std::invalid_argument("A blob does not lie in the arena.");
  }
  return blob;
}

OperationPointer OperationReader::operation(nb::handle source) {
  const auto name = nb::cast<std::string>(source.type().attr("__name__"));
  if (name == "Prepare") {
    Prepare p;
    p.top = blob(source.attr("top"));
    p.order = field<std::vector<int>>(source, "order");
    p.mean = field<std::vector<float>>(source, "mean");
    p.scale = field<float>(source, "scale");
    if (!source.attr("luma").is_none()) p.luma = field<std::vector<int>>(source, "luma");
    p.block = field<int>(source, "block");
    p.pad = pair(source, "pad");
    inputs_ = std::max(inputs_, p.top.offsets.size());
    return make(std::move(p));
  }
  if (name == "SpaceToDepth")
    return make(SpaceToDepth{blob(source.attr("bottom")), blob(source.attr("top")), field<int>(source, "block"),
                             pair(source, "pad")});
  if (name == "Convolution") {
    Convolution c;
    c.bottom = blob(source.attr("bottom"));
    c.top = blob(source.attr("top"));
    c.filters = field<std::shared_ptr<Filters>>(source, "filters");
    read_window(source, c);
    c.bias = floats(source, "bias");
    read_slope(source, c);
    c.images = field<std::vector<int>>(source, "images");
    for (int image : c.images)
      if (image < 0 || image >= c.top.images() || image >= c.bottom.images())
        throw std::invalid_argument("A convolution has no image " + std::to_string(image) + ".");
    c.groups = field<int>(source, "groups");
    const nb::object tile = source.attr("tile");
    c.tiled = !tile.is_none();
    if (c.tiled) {
      c.vertical = transform(tile.attr("vertical"));
      c.horizontal = transform(tile.attr("horizontal"));
    }
    return make(std::move(c));
  }
  if (name == "DepthwiseConvolution") {
    Depthwise d;
    d.bottom = blob(source.attr("bottom"));
    d.top = blob(source.attr("top"));
    d.weights = floats(source, "weights");
    read_window(source, d);
    d.bias = floats(source, "bias");
    read_slope(source, d);
    return make(std::move(d));
  }
  if (name == "Pool") {
    Pooling p;
    p.bottom = blob(source.attr("bottom"));
    p.top = blob(source.attr("top"));
    const auto kind = field<std::string>(source, "kind");
    if (kind != "max" && kind != "average") throw std::invalid_argument("There is no pooling " + kind + ".");
    p.maximum = kind == "max";
    read_window(source, p);
    p.after = pair(source, "after");
    p.inside = field<bool>(source, "inside");
    return make(std::move(p));
  }
  auto lrn = [&] {
    const int size = field<int>(source, "size");
    const Normalize normalize{size, static_cast<float>(field<double>(source, "alpha") / size),
                              field<float>(source, "beta"), field<float>(source, "k")};
    return Lrn{blob(source.attr("bottom")), blob(source.attr("top")), normalize};
  };
  if (name == "Lrn") return make(lrn());
  if (name == "LrnPool") {
    LrnPool l;
    l.lrn = lrn();
    l.pooling.bottom = l.lrn.bottom;
    l.pooling.top = l.lrn.top;
    l.pooling.kernel = pair(source, "kernel", 1);
    l.pooling.stride = pair(source, "stride", 1);
    l.pooling.pad = pair(source, "pad");
    return make(std::move(l));
  }
  if (name == "Affine") {
    Affine a;
    a.bottom = blob(source.attr("bottom"));
    a.top = blob(source.attr("top"));
    a.scale = floats(source, "scale");
    a.shift = floats(source, "shift");
    read_slope(source, a);
    return make(std::move(a));
  }
  if (name == "Activation")
    return make(Activation{blob(source.attr("bottom")), blob(source.attr("top")),
                           function(field<std::string>(source, "kind")),
                           field<std::vector<float>>(source, "parameters"), floats(source, "slopes")});
  if (name == "Eltwise") {
    Eltwise e;
    for (nb::handle bottom : nb::cast<nb::sequence>(source.attr("bottoms"))) e.bottoms.push_back(blob(bottom));
    e.top = blob(source.attr("top"));
    const auto kind = field<std::string>(source, "kind");
    if (kind != "sum" && kind != "prod" && kind != "max")
      throw std::invalid_argument("There is no elementwise " + kind + ".");
    e.combine = kind == "sum" ? Combine::kSum : kind == "prod" ? Combine::kProduct : Combine::kMaximum;
    e.coefficients = field<std::vector<float>>(source, "coefficients");
    read_slope(source, e);
    return make(std::move(e));
  }
  if (name == "Copy") return make(Copy{blob(source.attr("bottom")), blob(source.attr("top")), pair(source, "start")});
  if (name == "Softmax") return make(Softmax{blob(source.attr("bottom")), blob(source.attr("top"))});
  throw std::invalid_argument("There is no operation " + name + ".");
}

OperationPointer OperationReader::result(nb::handle source, std::vector<ResultShape>& shapes) const {
  const auto name = nb::cast<std::string>(source.type().attr("__name__"));
  const int first = static_cast<int>(shapes.size());
  const Blob bottom = blob(source.attr("bottom"));
  auto add = [&](bool integers, int channels) {
    for (int i = 0; i < bottom.images(); ++i)
      shapes.push_back({integers, bottom.heights[i], bottom.widths[i], channels});
  };
  if (name == "TopK") {
    const int k = field<int>(source, "k");
    add(true, k);
    add(false, k);
    return make(TopK{bottom, k, first});
  }
  if (name == "Whole") {
    add(false, bottom.channels);
    return make(Whole{bottom, first});
  }
  throw std::invalid_argument("There is no result " + name + ".");
}

}  // namespace densecast
