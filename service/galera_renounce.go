package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

// A member without which its cluster was begun gives its data up by order. What it had is
// kept aside as a whole, where there is room and where its folder can be renamed: it may
// have changes that somebody wants to look at. Else the transfer that it gets when it joins
// overwrites them, as the person was told who gave the word.

// gaveUp is one time that the data were given up, in the file of all of them. It outlives
// them, and lies where no transfer reaches: an order that is late, or given twice, must not
// cost the data that came since.
type gaveUp struct {
	Mark  string    `json:"mark"`
	At    time.Time `json:"at"`
	Aside string    `json:"aside,omitempty"` // the folder; empty: they were left to be overwritten
}

// gaveUpMost is how many of these are remembered.
const gaveUpMost = 16

func (c *galeraCopy) givenUp() ([]gaveUp, error) {
	raw, err := os.ReadFile(c.renounced)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var all []gaveUp
	if err == nil {
		err = json.Unmarshal(raw, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("read under which marks data were given up: %s: %w", c.renounced, err)
	}
	return all, nil
}

// tellRenounced adds to where the data stand what was given up.
func (c *galeraCopy) tellRenounced(r *fleet.Replica) {
	all, err := c.givenUp()
	if err != nil || len(all) == 0 {
		return
	}
	var marks []string
	for _, g := range all {
		marks = append(marks, g.Mark)
	}
	r.Renounced, r.Aside = strings.Join(marks, ","), all[len(all)-1].Aside
}

// Tend takes the steps that a member knows: it lags, or gives its data up, once under a mark.
func (c *galeraCopy) Tend(ctx context.Context, step, with, _ string) error {
	switch {
	case step == fleet.StepLag:
		return c.lag(ctx)
	case step == fleet.StepRenounce && with != "":
		return c.renounce(ctx, with)
	}
	return fmt.Errorf("tend %s: kind galera knows the steps %s and %s, and not %q", c.name, fleet.StepLag, fleet.StepRenounce, step)
}

// renounce gives its data up, once under a mark.
func (c *galeraCopy) renounce(ctx context.Context, mark string) error {
	all, err := c.givenUp()
	if err != nil {
		return err
	}
	for _, g := range all {
		if g.Mark == mark {
			return nil
		}
	}
	aside, err := c.setAside(ctx, mark)
	if err != nil {
		return fmt.Errorf("set the data of %s aside: %w", c.name, err)
	}
	if aside == "" {
		if err := c.Renounce(ctx); err != nil {
			return err
		}
	}
	if all = append(all, gaveUp{Mark: mark, At: time.Now().UTC(), Aside: aside}); len(all) > gaveUpMost {
		all = all[len(all)-gaveUpMost:]
	}
	raw, err := json.MarshalIndent(all, "", "  ")
	if err == nil {
		_, err = write(c.renounced, append(raw, '\n'))
	}
	if err != nil {
		return fmt.Errorf("keep that the data of %s were given up: %w", c.name, err)
	}
	return nil
}

// setAside renames the data's folder, leaves an empty one and returns where the data are;
// "" if they could not be kept: the folder is a file system of its own, or the disk has no
// room for another copy. It fails while the member runs.
func (c *galeraCopy) setAside(ctx context.Context, mark string) (string, error) {
	c.ask.Lock()
	defer c.ask.Unlock()
	if err := c.idle(ctx); err != nil {
		return "", err
	}
	data, err := filepath.EvalSymlinks(c.data)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = c.data, nil // a former try was cut off in the middle
	}
	if err != nil {
		return "", err
	}
	aside := data + ".without-" + strings.NewReplacer(":", "", "-", "", ".", "").Replace(mark)
	if info, err := os.Stat(aside); err == nil { // it went as far as this
		return aside, makeLike(data, info)
	}
	info, err := os.Stat(data)
	if err != nil {
		return "", err
	}
	if fits, err := fitsTwice(data); err != nil || !fits {
		return "", err
	}
	switch err := os.Rename(data, aside); {
	case errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.EXDEV):
		return "", nil
	case err != nil:
		return "", err
	}
	return aside, makeLike(data, info)
}

// makeLike makes an empty folder with another's owner and mode, unless it is there.
func makeLike(dir string, like fs.FileInfo) error {
	if err := os.Mkdir(dir, like.Mode().Perm()); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	owner := like.Sys().(*syscall.Stat_t)
	return errors.Join(os.Chown(dir, int(owner.Uid), int(owner.Gid)), os.Chmod(dir, like.Mode().Perm()), syncDir(filepath.Dir(dir)))
}

// fitsTwice says whether a folder's file system has room for as much again.
func fitsTwice(dir string) (bool, error) {
	var used int64
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		used += info.Sys().(*syscall.Stat_t).Blocks * 512
		return nil
	})
	var s unix.Statfs_t
	if err == nil {
		err = unix.Statfs(dir, &s)
	}
	return err == nil && int64(s.Bavail)*s.Bsize >= used+roomLeft, err
}
