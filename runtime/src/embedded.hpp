// Data of the Python package, embedded by the build: one source for both runtimes.
#pragma once

namespace elir::core {

extern const char* const kVersion;         // of elir_deploy
extern const char* const kAutomatic;       // elir_deploy/runtime/automatic.json
extern const char* const kManifestSchema;  // elir_deploy/runtime/bundle.schema.json
extern const char* const kOnnxRules;       // elir_deploy/runtime/onnx_rules.json

}  // namespace elir::core
