package service

import (
	"context"
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	logindName  = "org.freedesktop.login1"
	logindPath  = dbus.ObjectPath("/org/freedesktop/login1")
	logindIface = logindName + ".Manager"
	// logindAgain is how soon a lost bus is looked for again.
	logindAgain = 5 * time.Second
)

// BeforeShutdown calls do when logind says that this host is about to shut down or
// reboot, while everything on it still runs. The shutdown waits until do returns, by
// an inhibitor of the kind "delay", and so no longer than logind's own
// InhibitDelayMaxSec (5 s unless set otherwise). When the shutdown is off again, the
// context of do ends, and undo is called after it. Where no logind runs, one is waited
// for. It returns when ctx ends and do has returned.
func (s *Systemd) BeforeShutdown(ctx context.Context, do func(context.Context), undo func()) {
	for ctx.Err() == nil {
		s.inhibit(ctx, do, undo)
		select {
		case <-ctx.Done():
		case <-time.After(logindAgain):
		}
	}
}

// inhibit serves one connection to the bus, from its beginning to its end.
func (s *Systemd) inhibit(ctx context.Context, do func(context.Context), undo func()) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	conn, err := dbus.Connect(s.address, dbus.WithContext(ctx), dbus.WithAuth(dbus.AuthExternal(strconv.Itoa(os.Getuid()))))
	if err != nil {
		return // there is a bus wherever systemd's answers matter, and they are asked for elsewhere
	}
	defer conn.Close()
	signals := make(chan *dbus.Signal, 16)
	conn.Signal(signals)
	err = errors.Join(
		conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(logindName), dbus.WithMatchInterface(logindIface), dbus.WithMatchMember("PrepareForShutdown")),
		conn.AddMatchSignalContext(ctx, dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, logindName)),
	)
	if err != nil {
		return
	}
	i := inhibitor{logind: conn.Object(logindName, logindPath), fd: -1}
	defer i.release()
	i.take(ctx)

	finish := func() {}
	var done chan struct{} // nil, or closed when do has returned
	wait := func() {
		finish()
		if done != nil {
			<-done
			done = nil
		}
	}
	defer wait()
	begin := func() {
		if done != nil {
			return
		}
		done = make(chan struct{})
		var doing context.Context
		doing, finish = context.WithCancel(ctx)
		go func(done chan struct{}) {
			defer close(done)
			do(doing)
		}(done)
	}
	if i.preparing(ctx) { // this process began in the middle of it
		begin()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-done:
			done = nil
			i.release() // the shutdown goes on
		case sig, open := <-signals:
			switch {
			case !open:
				return
			case sig.Name == "org.freedesktop.DBus.NameOwnerChanged":
				i.release() // the logind that gave it is gone
				i.take(ctx)
			case len(sig.Body) == 1 && sig.Body[0] == true:
				begin()
			case len(sig.Body) == 1 && sig.Body[0] == false:
				wait()
				undo()
				i.release()
				i.take(ctx)
			}
		}
	}
}

// inhibitor is the lock that delays a shutdown, as long as its descriptor is open.
type inhibitor struct {
	logind dbus.BusObject
	fd     int // -1: none
}

// take asks for it, unless one is held. Without logind there is none to be had: it is
// asked for again when one appears.
func (i *inhibitor) take(ctx context.Context) {
	if i.fd >= 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var fd dbus.UnixFD
	err := i.logind.CallWithContext(ctx, logindIface+".Inhibit", dbus.FlagNoAutoStart,
		"shutdown", "Mainstay", "what this host holds goes elsewhere first", "delay").Store(&fd)
	if err == nil {
		i.fd = int(fd)
	}
}

func (i *inhibitor) release() {
	if i.fd >= 0 {
		_ = syscall.Close(i.fd) // its end is all that counts
	}
	i.fd = -1
}

// preparing says whether a shutdown has begun already.
func (i *inhibitor) preparing(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var v dbus.Variant
	err := i.logind.CallWithContext(ctx, propsIface+".Get", dbus.FlagNoAutoStart, logindIface, "PreparingForShutdown").Store(&v)
	return err == nil && v.Value() == true
}
