// Tests in both modes on the reference backend.
#pragma once

#include <gtest/gtest.h>

#include <elir/elir.hpp>

#include "support.hpp"

namespace elir::test {

class EachMode : public ::testing::TestWithParam<elir_mode> {
 protected:
  void SetUp() override { write_bundle(folder_.path() / "b"); }
  Restorer opened() const {
    elir_params params = reference_params();
    params.mode = GetParam();
    return Restorer((folder_.path() / "b").string(), params);
  }

 private:
  Folder folder_;
};

inline const auto kModes = ::testing::Values(ELIR_MODE_LATENCY, ELIR_MODE_THROUGHPUT);

inline const char* mode_name(const ::testing::TestParamInfo<elir_mode>& info) {
  return info.param == ELIR_MODE_LATENCY ? "Latency" : "Throughput";
}

}  // namespace elir::test
