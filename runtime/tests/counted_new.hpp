// Counts what C++ code allocates in this process, in any library, and lets it fail: every way ends
// in the operators that counted_new.cpp replaces.
#pragma once

namespace elir::test {

// Since the process began.
long allocations();

// Of this thread, the allocation after `others` fails. Negative: none does.
void fail_after(long others);

}  // namespace elir::test
