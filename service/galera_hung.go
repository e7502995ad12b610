package service

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"mainstay/fleet"
)

const (
	// politely is how long a member that is in no primary component may take to end in
	// good order. It waits for nobody's work, and its unit (Debian's has SendSIGKILL=no)
	// would let one that hangs on its way down be for ever.
	politely = time.Minute
	// diesWithin is how long a killed server may take to be gone. What waits for a disk in
	// the kernel dies when that answers.
	diesWithin = 30 * time.Second
)

// Probe asks the server what readiness rests on. Any answer will do: one that is in no
// primary component, or has too many clients, does not hang.
func (c *galeraCopy) Probe(ctx context.Context) error {
	_, err := c.status(ctx)
	return err
}

// shoot lets nobody start the unit again and sends all its processes SIGKILL, by systemd.
// What the server has acknowledged is in InnoDB's log, on the disk or with the kernel,
// and is there again when the next server has read that log.
func (c *galeraCopy) shoot(ctx context.Context, unit string) error {
	if err := c.bar.drop(); err != nil {
		return err
	}
	return c.systemd.call(ctx, "KillUnit", unit, "all", int32(syscall.SIGKILL)).Err
}

// end stops a member that takes no writes: politely, and if that does not help by force.
func (c *galeraCopy) end(ctx context.Context, unit string) error {
	polite, cancel := context.WithTimeout(ctx, c.polite)
	err := c.Stop(polite)
	cancel()
	if err == nil || ctx.Err() != nil || polite.Err() == nil {
		return err
	}
	if err := c.shoot(ctx, unit); err != nil {
		return err
	}
	return c.Stop(ctx)
}

// Kill ends a member that hangs. One that answers, be it with an error, does not.
func (c *galeraCopy) Kill(ctx context.Context) error {
	st, u, err := c.unitCopy.state(ctx, c.systemd.look)
	if err != nil {
		return fmt.Errorf("kill %s: %w", c.name, err)
	}
	if down(st.Phase) {
		return nil
	}
	if st.Phase == fleet.Running {
		if err := c.Probe(ctx); !errors.Is(err, ErrUnknown) {
			return errors.Join(fmt.Errorf("kill %s: it answers, or its host could not ask it", c.name), err)
		}
	}
	c.mu.Lock()
	c.restarts.add(1) // one that hangs again and again is not killed without end
	c.mu.Unlock()
	if err := c.shoot(ctx, u.ID); err != nil {
		return fmt.Errorf("kill %s: %w", c.name, err)
	}
	dies, cancel := context.WithTimeout(ctx, diesWithin)
	defer cancel()
	if err := c.Stop(dies); err != nil {
		return fmt.Errorf("kill %s: it was sent SIGKILL, and is not surely gone; look: ps -o pid,stat,wchan:30 -C mariadbd,mysqld: %w", c.name, err)
	}
	return nil
}
