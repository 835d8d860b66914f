// Reads the dataclasses of pipeline/engines/native/program.py.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <vector>

#include "program.h"

namespace densecast {

// Every blob that it reads lies in the arena, or it throws std::invalid_argument.
class OperationReader {
 public:
  explicit OperationReader(std::int64_t arena) : arena_(arena) {}

  OperationPointer operation(nanobind::handle source);
  // Adds the shapes of the result's arrays.
  OperationPointer result(nanobind::handle source, std::vector<ResultShape>& shapes) const;
  // Images that the operations read.
  std::size_t inputs() const { return inputs_; }

 private:
  Blob blob(nanobind::handle source) const;

  std::int64_t arena_;
  std::size_t inputs_ = 0;
};

}  // namespace densecast
