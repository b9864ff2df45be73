// A library without any of the functions that are looked for.
