// Counts the allocations by C++ code in this process, in any library, and lets them fail, by
// replacing the operators new and delete.
#pragma once

namespace elir::test {

// Number of allocations of the process.
long allocations();

// Lets this thread's allocation after `others` fail; negative: none.
void fail_after(long others);

}  // namespace elir::test
