package vip

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

// Now reads CLOCK_BOOTTIME, the clock that all safety arithmetic of a host is
// done on: it never jumps and, unlike CLOCK_MONOTONIC, it counts suspend.
func Now() fleet.Moment {
	var ts unix.Timespec
	// Raw, as it never waits: of other calls Go's scheduler is told, and wakes its watcher.
	if _, _, err := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&ts)), 0); err != 0 {
		panic("vip: read CLOCK_BOOTTIME: " + err.Error()) // every kernel since 2.6.39 has it
	}
	return fleet.Moment(ts.Nano())
}
