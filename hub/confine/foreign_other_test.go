//go:build !(linux && amd64)

package confine_test

// foreignPID has no way to ask here: the architecture has one kind of system
// call in a process.
func foreignPID() int { return 0 }
