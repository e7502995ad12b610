package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"mainstay/fleet"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// GoAlone makes this member, of a pair, the only one, in its own data and with all of
// them: whatever was committed is on both members of a pair, so nothing is lost. The
// partner's boot must be dead by the proof p, which becomes the first thing the new store
// says: the epoch leaps, the proof stands, and its host is barred. Or the partner has given
// up its vote by its word: then p is nil, and the epoch leaps, which is all; its host may
// live, and what is recorded as its own stays so. The member must not be running. A deed
// that was cut short may be repeated.
func GoAlone(ctx context.Context, cfg QuorumConfig, partner string, p *fleet.Proof) error {
	fail := func(err error) error { return fmt.Errorf("go on without %s: %w", partner, err) }
	if !hasData(cfg.Dir) {
		return fail(fmt.Errorf("no store in %s", cfg.Dir))
	}
	unlock, err := lockDir(cfg.Dir)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	err = alone(ctx, cfg, true, func(kv clientv3.KV) error {
		var epoch fleet.EpochValue
		if err := read(ctx, kv, epochKey, &epoch); err != nil {
			return err
		}
		epoch.Epoch += EpochLeap
		evidence := "it has given up its vote by its word"
		ops := []clientv3.Op{
			clientv3.OpPut(epochKey, string(fleet.Put("", epoch, "").Value)),
			clientv3.OpDelete(votersKey),
		}
		if p != nil {
			m := fleet.Member{Host: partner}
			if err := read(ctx, kv, statePrefix+"member/"+partner, &m); err != nil {
				return err
			}
			if m.Barred == "" || len(m.Fenced) == 0 || !m.Fenced[len(m.Fenced)-1].Equal(p.At) {
				m.Barred, m.Fenced = "fenced by its partner", append(slices.Clone(m.Fenced), p.At)
			}
			evidence = p.Evidence
			ops = append(ops,
				clientv3.OpPut(statePrefix+"proof/"+partner, string(fleet.Put("", *p, "").Value)),
				clientv3.OpPut(statePrefix+"member/"+partner, string(fleet.Put("", m, "").Value)))
		}
		why := told(cfg.Name, fmt.Sprintf("goes on without %s: %s", partner, evidence))
		_, err := kv.Txn(ctx).Then(append(ops, clientv3.OpPut(why.Key, string(why.Value)))...).Commit()
		return err
	})
	if err != nil {
		return fail(err)
	}
	return nil
}

// read takes the value at key, if there is one.
func read(ctx context.Context, kv clientv3.KV, key string, into any) error {
	got, err := kv.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	if len(got.Kvs) == 0 {
		return nil
	}
	if err := json.Unmarshal(got.Kvs[0].Value, into); err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	return nil
}

// asides is how many former stores are kept: what they know, the partner's knows too, and
// each may have 120 MB.
const asides = 3

// PutAside moves this host's data out of the way, so that it can join its partner's store,
// and returns where they are; "" if there were none. The newest three are kept. The member
// must not be running.
func PutAside(dir string) (kept string, err error) {
	if !hasData(dir) {
		return "", nil
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return "", fmt.Errorf("put the store aside: %w", err)
	}
	defer unlock()
	kept = filepath.Join(dir, "older-"+time.Now().UTC().Format("20060102T150405Z"))
	if err := os.Rename(filepath.Join(dir, "etcd"), kept); err != nil {
		return "", fmt.Errorf("put the store aside: %w", err)
	}
	all, err := filepath.Glob(filepath.Join(dir, "older-*"))
	if err != nil {
		return kept, err
	}
	slices.Sort(all) // by their times
	errs := []error{syncDir(dir)}
	for _, old := range all[:max(0, len(all)-asides)] {
		errs = append(errs, os.RemoveAll(old))
	}
	return kept, errors.Join(errs...)
}
