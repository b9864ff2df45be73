#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace elir::core {

// Rules for entries of a manifest that its schema accepts. Each throws ELIR_ERROR_BUNDLE.
void check_artifacts(const std::string& name, const nlohmann::json& artifacts);
void check_detector(const nlohmann::json& detector);

}  // namespace elir::core
