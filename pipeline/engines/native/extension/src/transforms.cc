#include "transforms.h"

namespace densecast {
namespace {

// Finds out whether the rows (of inputs) or columns (of outputs) are those of a zero, pairs and infinity, in this
// order.
void classify(Transform& t, bool inputs) {
  const int points = inputs ? t.rows : t.columns;
  for (int shape = 0; shape < 4 && !t.paired; ++shape) {
    const int zero = shape & 1, infinity = shape >> 1, pairs = (points - zero - infinity) / 2;
    if (pairs < 1 || pairs > 4 || zero + infinity + 2 * pairs != points) continue;
    auto number = [&](int point, int other) {
      return inputs ? t.matrix[point * t.columns + other] : t.matrix[other * t.columns + point];
    };
    const int others = inputs ? t.columns : t.rows;
    for (int even_same = 0; even_same < 2 && !t.paired; ++even_same) {
      if (!inputs && !even_same) continue;
      bool fits = true;
      for (int p = 0; p < pairs; ++p)
        for (int j = 0; j < others; ++j) {
          const float a = number(zero + 2 * p, j), b = number(zero + 2 * p + 1, j);
          const bool same = (j % 2 == 0) == (even_same == 1);
          fits &= same ? a == b : a == -b;
          // The first input belongs to the zero alone, the last one to infinity.
          if (inputs && ((zero && j == 0) || (infinity && j == others - 1))) fits &= a == 0.0f;
        }
      for (int j = 0; j < others; ++j) {
        if (zero) {
          const bool may = inputs ? j % 2 == 0 && !(infinity && j == others - 1) : j == 0;
          fits &= may || number(0, j) == 0.0f;
        }
        if (infinity) {
          const bool may = inputs ? j % 2 == zero : j == others - 1;
          fits &= may || number(points - 1, j) == 0.0f;
        }
      }
      if (!fits) continue;
      t.paired = true;
      t.zero = zero;
      t.pairs = pairs;
      t.infinity = infinity;
      t.even_same = even_same;
    }
  }
}

}  // namespace

Transform transform_of(const std::vector<float>& matrix, int rows, int columns, bool inputs) {
  Transform t;
  t.rows = rows;
  t.columns = columns;
  t.matrix = matrix.data();
  classify(t, inputs);
  return t;
}

}  // namespace densecast
