package confine_test

// foreign tells a child to make a system call as a 32-bit program does.
const foreign = "WARREN_FOREIGN_CHILD"
