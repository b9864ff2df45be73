// A library without the functions that are needed.
