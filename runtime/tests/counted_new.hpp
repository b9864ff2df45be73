// Counts what C++ code allocates in this process, in any library: every way ends in the operators
// that counted_new.cpp replaces.
#pragma once

namespace elir::test {

// Since the process began.
long allocations();

}  // namespace elir::test
