package store

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
	"unsafe"

	"mainstay/fleet"

	"golang.org/x/sys/unix"
)

// The keys in etcd.
const (
	root          = "/mainstay/"
	statePrefix   = root + "state/"
	eventPrefix   = root + "event/"
	privatePrefix = root + "private/"
	tokenPrefix   = privatePrefix + "token/"
	epochKey      = statePrefix + "epoch"
	votersKey     = privatePrefix + "voters"
	pulseKey      = root + "pulse" // written by pulse, read by nobody
)

// The bounds. What does not fit is refused before it is sent, so that the
// refusal is certain.
const (
	maxOps     = 8192    // operations in one transaction
	maxBytes   = 6 << 20 // bytes of one transaction's keys and values
	opDeadline = 5 * time.Second
)

// Errors that callers act on; use errors.Is.
var (
	// ErrEpoch: another leader has raised the epoch. Surely nothing was written.
	ErrEpoch = errors.New("superseded by a newer epoch")
	// ErrUnknown: no answer came in time. It may or may not have been written.
	ErrUnknown = errors.New("outcome unknown")
	// ErrExists: what was to be created is there already. Nothing was written.
	ErrExists = errors.New("exists already")
	// ErrChanged: the value is not the one that was compared. Nothing was written.
	ErrChanged = errors.New("changed meanwhile")
	// ErrToken: the join token is unknown, expired, or was used by another host.
	ErrToken = errors.New("join token is not valid")
	// ErrUnsettled: the former change of voters has not been settled yet.
	ErrUnsettled = errors.New("a change of voters is still open")
	// ErrBehind: the new voter has not caught up yet; ask again.
	ErrBehind = errors.New("new voter has not caught up yet")
	// ErrUnhealthy: etcd changes its members only while all that should live have
	// been in touch for 5 s. Nothing was changed; ask again.
	ErrUnhealthy = errors.New("the voters have not all been in touch for 5 s")
	// ErrNotLeader: the member on this host does not lead.
	ErrNotLeader = errors.New("this host's store does not lead")
	// ErrRemoved: the member was removed from the cluster and must not be started again.
	ErrRemoved = errors.New("this host's store was removed from the cluster")
)

// sockets are the two Unix sockets below a run directory.
func quorumSocket(run string) string { return path.Join(run, "quorum.sock") }
func leadSocket(run string) string   { return path.Join(run, "lead.sock") }

// now reads CLOCK_BOOTTIME. The quorum and its agent live on one host, so their
// Moments may be compared.
func now() fleet.Moment {
	var ts unix.Timespec
	// Raw, as it never waits: of other calls Go's scheduler is told, and wakes its watcher.
	if _, _, err := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&ts)), 0); err != 0 {
		panic(fmt.Sprintf("store: read CLOCK_BOOTTIME: %v", err)) // Linux always has it
	}
	return fleet.Moment(ts.Nano())
}

// stateKey checks a record's key and returns where it stands.
func stateKey(key string) (string, error) {
	if key == "" || strings.HasPrefix(key, "/") || strings.ContainsAny(key, "\x00\n") {
		return "", fmt.Errorf("record key %q: empty, absolute or with a control character", key)
	}
	return statePrefix + key, nil
}
