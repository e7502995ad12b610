package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"
)

// An agent is replaced while it runs, for a new binary or a new site's file, on
// SIGHUP (systemctl reload mainstay):
//
//	this process                      its successor
//	start it --------------------->   read and check everything
//	beat on, renew on          <---   "ready"
//	stop, let go of the lock ----->   take the lock, go on with the stint
//
// So a binary that does not run and a file that is not right replace nothing, and
// the time without a beat is that between two system calls, however long a start
// takes. If the successor never beats, the kernel guard ends what this host speaks
// for when its lease ends, as after any death.

// readyFile is the variable that names the descriptor by which a successor says
// that it is ready.
const readyFile = "MAINSTAY_READY_FILE"

// readyBound is how long a successor may take to get ready.
const readyBound = 30 * time.Second

// succeeds says whether this process shall take another's place.
func succeeds() bool { return os.Getenv(readyFile) == "3" }

// prepared tells the process that started this one, if any, that it may stop.
func prepared() error {
	if !succeeds() {
		return nil
	}
	if err := os.Unsetenv(readyFile); err != nil {
		return err
	}
	f := os.NewFile(3, "ready")
	_, err := f.WriteString("ready\n")
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("tell the former process that this one is ready: %w", err)
	}
	return nil
}

// succeed starts the installed program in this one's place and returns its process
// id once it is ready. Whatever goes wrong before that, it is gone again.
func succeed(ctx context.Context) (pid int, err error) {
	path, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("find this program: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", path, err)
	}
	defer r.Close()
	// It outlives this process, and with it every context of this one.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), path, os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), readyFile+"=3")
	cmd.ExtraFiles = []*os.File{w}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", path, err)
	}
	said := make(chan error, 1)
	go func() {
		_, err := bufio.NewReader(r).ReadString('\n')
		said <- err
	}()
	select {
	case err = <-said:
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(readyBound):
		err = fmt.Errorf("it is not ready after %v", readyBound)
	}
	if err == nil {
		pid = cmd.Process.Pid // Release forgets it
		return pid, cmd.Process.Release()
	}
	_ = cmd.Process.Kill() // it may have ended by itself
	if ended := cmd.Wait(); ended != nil {
		err = ended // says more than a closed pipe
	}
	return 0, fmt.Errorf("the installed %s does not take over, see its messages above: %w", path, err)
}

// awaitSuccessor lets this process end once another is ready to go on.
func (n *node) awaitSuccessor(ctx context.Context, leave func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.cfg.Reload:
		case <-n.renewed:
		}
		pid, err := succeed(ctx)
		if err != nil {
			n.log.Error("this process goes on", "why", err)
			continue
		}
		// Who waits for an answer about a new file shall have it from this process.
		n.answerFirst(ctx)
		n.log.Info("another process goes on in this one's place", "pid", pid)
		if n.cfg.Successor != nil {
			n.cfg.Successor(pid)
		}
		n.succeeded.Store(true)
		leave()
		return
	}
}

// part waits for what ran beside the agent, but not where another process goes on in this one's place:
// that one waits for the lock while its lease runs out. A check of a site's file that was begun just then
// took 0.7 s to end in a lab and more than a lease on a busier machine, and then the host's addresses
// fell, and each connection to them was reset. Agent, addresses and lead have been let go of before;
// what is left ends with the process.
func (n *node) part(beside *sync.WaitGroup) {
	if !n.succeeded.Load() {
		beside.Wait()
	}
}

// answerFirst waits until no operator waits for an answer about a new file.
func (n *node) answerFirst(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, readyBound)
	defer cancel()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for n.applying.Load() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
