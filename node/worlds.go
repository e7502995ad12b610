package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"mainstay/api"
	"mainstay/fleet"
)

// worldsKept bounds how many Worlds are kept for replay on each voter.
const worldsKept = 300

// worlds keeps every World that led to something. Writing never delays a turn.
type worlds struct {
	dir string
	n   atomic.Uint64
	log *slog.Logger
	put chan *api.WorldView
}

func newWorlds(dir string, log *slog.Logger) (*worlds, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", dir, err)
	}
	return &worlds{dir: dir, log: log, put: make(chan *api.WorldView, 1024)}, nil
}

// keep queues a World and returns the id under which it will be found.
func (k *worlds) keep(w fleet.World, p fleet.Plan) string {
	id := fmt.Sprintf("%08d.w%08d", w.Epoch, k.n.Add(1))
	select {
	case k.put <- &api.WorldView{ID: id, World: bare(w), Plan: p}:
		return id
	default:
		return "" // the disk is far behind; the decision does not wait for it
	}
}

func (k *worlds) run(done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case v := <-k.put:
			if err := k.write(v); err != nil {
				k.log.Warn("keep World", "id", v.ID, "error", err)
			}
		}
	}
}

func (k *worlds) write(v *api.WorldView) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	path := filepath.Join(k.dir, v.ID+".json")
	// Synced before it has its name: after a power cut a World is whole or not there.
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	names, err := filepath.Glob(filepath.Join(k.dir, "*.json"))
	if err != nil || len(names) <= worldsKept {
		return err
	}
	slices.Sort(names)
	var errs []error
	for _, old := range names[:len(names)-worldsKept] {
		errs = append(errs, os.Remove(old))
	}
	return errors.Join(errs...)
}

// read returns a kept World.
func (k *worlds) read(id string) (api.WorldView, error) {
	var v api.WorldView
	if strings.ContainsAny(id, "/\x00") {
		return v, api.Refuse(http.StatusBadRequest, "", "%q is no World's id", id)
	}
	raw, err := os.ReadFile(filepath.Join(k.dir, id+".json"))
	if errors.Is(err, os.ErrNotExist) {
		return v, api.Refuse(http.StatusNotFound, "", "World %s is not kept on this host", id)
	}
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal(raw, &v)
}

// notKept says whether a host has said that it keeps no such World.
func notKept(err error) bool {
	refusal, ok := errors.AsType[*api.Refusal](err)
	return ok && refusal.Code == http.StatusNotFound
}

// bare is a World without what is secret in the site's file, and no decision rests on.
func bare(w fleet.World) fleet.World {
	alarms := make([]string, len(w.Spec.Alarms))
	for i, a := range w.Spec.Alarms {
		alarms[i] = api.BareURL(a)
	}
	w.Spec.Alarms = alarms
	return w
}
