package storetest

import "syscall"

// callOf says which system call a stopped thread is about to make, and its
// first argument.
func callOf(tid int) (call uint64, first int, err error) {
	var regs syscall.PtraceRegs
	err = syscall.PtraceGetRegs(tid, &regs)
	return regs.Regs[8], int(int32(regs.Regs[0])), err
}

func changesOld(uint64) bool { return false }
