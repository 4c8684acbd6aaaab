package storetest

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// callOf says which system call a stopped thread is about to make, and its
// first argument.
func callOf(tid int) (call uint64, first int, err error) {
	var regs syscall.PtraceRegs
	err = syscall.PtraceGetRegs(tid, &regs)
	return regs.Orig_rax, int(int32(regs.Rdi)), err
}

// changesOld knows the calls that newer architectures left out.
func changesOld(call uint64) bool {
	return call == unix.SYS_RENAME || call == unix.SYS_UNLINK
}
