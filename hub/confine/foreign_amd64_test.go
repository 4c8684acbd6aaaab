//go:build linux

package confine_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

// foreignPID asks for the process's number as a 32-bit program does.
func foreignPID() int {
	// The result's place is in the same page as the code, behind it.
	page, err := syscall.Mmap(-1, 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE|syscall.PROT_EXEC, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		fmt.Println(err)
		return 0
	}
	code := []byte{0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xa3} // mov eax, getpid; int 0x80; mov [result], eax
	code = binary.LittleEndian.AppendUint64(code, uint64(uintptr(unsafe.Pointer(&page[64]))))
	copy(page, append(code, 0xc3)) // ret
	entry := unsafe.Pointer(&page[0])
	holder := &entry
	call := *(*func())(unsafe.Pointer(&holder))
	runtime.LockOSThread()
	call()
	return int(int32(binary.LittleEndian.Uint32(page[64:])))
}

// TestForeignCalls: the lock holds for system calls in the manner of a 32-bit
// program as well.
func TestForeignCalls(t *testing.T) {
	run := func(how string) (string, error) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), foreign+"="+how)
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	if out, err := run("free"); err != nil || out != "true" {
		t.Skipf("this kernel has no 32-bit system calls, so there is nothing to refuse: %v", err)
	}
	if out, err := run("confined"); err != nil || out != fmt.Sprint(nil, -int(syscall.EPERM)) {
		t.Errorf("a confined process gets %q, %v; want EPERM", out, err)
	}
}
