package vip

import (
	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

// Now reads CLOCK_BOOTTIME, the clock that all safety arithmetic of a host is
// done on: it never jumps and, unlike CLOCK_MONOTONIC, it counts suspend.
func Now() fleet.Moment {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("vip: read CLOCK_BOOTTIME: " + err.Error()) // every kernel since 2.6.39 has it
	}
	return fleet.Moment(ts.Nano())
}
