package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

// A backup is lines of JSON: a Header, then one line for each key. It holds
// what Mainstay wrote, not etcd's files, so it can be read by eye, and by any
// later version. The site's CA key is in it: keep it as you would keep that.

// Header is the first line of a backup.
type Header struct {
	Mainstay string    `json:"mainstay"` // always "backup"
	Format   int       `json:"format"`   // always 1
	Site     string    `json:"site"`
	Version  string    `json:"version"` // of the program that wrote it
	Taken    time.Time `json:"taken"`
	Revision int64     `json:"revision"` // of etcd
	Epoch    uint64    `json:"epoch"`
	Keys     int       `json:"keys"`
	SHA256   string    `json:"sha256"` // of all that follows this line
}

type line struct {
	Key   string `json:"k"`
	Value []byte `json:"v"`
}

// EpochLeap is how far Restore and Recover raise the epoch, at the least. The
// lost part of the history may have raised it above what the copy knows, and
// hosts remember: an epoch must never be given twice.
const EpochLeap = 1 << 20

// Backup writes all that the store remembers, as of one revision. It reads the
// own member alone, so it works without a quorum; then the last moments may be
// missing. site and version go into the Header, which it returns.
func (c *Client) Backup(ctx context.Context, w io.Writer, site, version string) (Header, error) {
	return backup(ctx, c.kv, w, site, version)
}

func backup(ctx context.Context, kv clientv3.KV, w io.Writer, site, version string) (Header, error) {
	const page = 1000
	h := Header{Mainstay: "backup", Format: 1, Site: site, Version: version, Taken: time.Now().UTC().Truncate(time.Second)}
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	from, end := root, clientv3.GetPrefixRangeEnd(root)
	for {
		got, err := kv.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(page),
			clientv3.WithRev(h.Revision), clientv3.WithSerializable())
		if err != nil {
			return Header{}, fmt.Errorf("read the store for a backup: %w", err)
		}
		if h.Revision == 0 {
			h.Revision = got.Header.Revision
		}
		for _, p := range got.Kvs {
			if err := enc.Encode(line{Key: string(p.Key), Value: p.Value}); err != nil {
				return Header{}, fmt.Errorf("write the backup: %w", err)
			}
			h.Keys++
			from = string(p.Key) + "\x00"
			if string(p.Key) == epochKey {
				var e fleet.EpochValue
				if err := json.Unmarshal(p.Value, &e); err != nil {
					return Header{}, fmt.Errorf("read the epoch for a backup: %w", err)
				}
				h.Epoch = e.Epoch
			}
		}
		if !got.More {
			break
		}
	}
	sum := sha256.Sum256(body.Bytes())
	h.SHA256 = hex.EncodeToString(sum[:])
	if err := json.NewEncoder(w).Encode(h); err != nil {
		return Header{}, fmt.Errorf("write the backup: %w", err)
	}
	if _, err := body.WriteTo(w); err != nil {
		return Header{}, fmt.Errorf("write the backup: %w", err)
	}
	return h, nil
}

// readBackup reads and checks a whole backup.
func readBackup(r io.Reader) (Header, []line, error) {
	var h Header
	in := bufio.NewReader(r)
	first, err := in.ReadBytes('\n')
	if err != nil {
		return h, nil, fmt.Errorf("read the backup's header: %w", err)
	}
	if err := json.Unmarshal(first, &h); err != nil || h.Mainstay != "backup" {
		return h, nil, errors.New("read the backup: not a backup of Mainstay")
	}
	if h.Format != 1 {
		return h, nil, fmt.Errorf("read the backup: format %d, this version knows 1", h.Format)
	}
	body, err := io.ReadAll(in)
	if err != nil {
		return h, nil, fmt.Errorf("read the backup: %w", err)
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != h.SHA256 {
		return h, nil, errors.New("read the backup: damaged or cut short, its sha256 differs")
	}
	var lines []line
	for dec := json.NewDecoder(bytes.NewReader(body)); ; {
		var l line
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return h, nil, fmt.Errorf("read the backup: %w", err)
		}
		if !strings.HasPrefix(l.Key, root) {
			return h, nil, fmt.Errorf("read the backup: foreign key %q", l.Key)
		}
		lines = append(lines, l)
	}
	if len(lines) != h.Keys {
		return h, nil, fmt.Errorf("read the backup: %d keys, its header says %d", len(lines), h.Keys)
	}
	return h, lines, nil
}

// Restore makes a new cluster of one member in the empty cfg.Dir from a backup.
// RunQuorum runs it then; the other voters join it with AddVoter, their Dirs
// empty. Join tokens are not restored, for they may have been used since, nor is
// the site's file, for the hosts may have a newer one; and the epoch leaps. Refused if Dir has data or the site is another.
//
// The new cluster has a new identity: members of the old one can neither join
// it nor disturb it. But while a majority of those runs, there are two stores
// with two leaders: they must be stopped first.
// by is the person who does it, for history.
func Restore(ctx context.Context, cfg QuorumConfig, r io.Reader, by string) (Header, error) {
	return restore(ctx, cfg, r, func(lines []line) []line {
		return append(lines, told(by, fmt.Sprintf("restored the store on %s from a backup", cfg.Name)))
	})
}

// told is what a new store says first: who made it. The first leader tells it in history.
func told(by, what string) line {
	r := fleet.Deed(by, "site", what, time.Now())
	return line{Key: statePrefix + r.Key, Value: r.Value}
}

func restore(ctx context.Context, cfg QuorumConfig, r io.Reader, change func([]line) []line) (Header, error) {
	h, lines, err := readBackup(r)
	if err != nil {
		return h, err
	}
	lines = change(lines)
	if h.Site != cfg.Site {
		return h, fmt.Errorf("restore: the backup is of site %q, this is %q", h.Site, cfg.Site)
	}
	if hasData(cfg.Dir) {
		return h, fmt.Errorf("restore: %s holds a store; move it away first", cfg.Dir)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return h, fmt.Errorf("restore: %w", err)
	}
	unlock, err := lockDir(cfg.Dir)
	if err != nil {
		return h, fmt.Errorf("restore: %w", err)
	}
	defer unlock()
	// Built beside and moved when whole: a restore that was cut short leaves nothing.
	building := filepath.Join(cfg.Dir, "restoring")
	if err := os.RemoveAll(building); err != nil {
		return h, fmt.Errorf("restore: %w", err)
	}
	if err := build(ctx, cfg, building, lines); err != nil {
		return h, fmt.Errorf("restore: %w", errors.Join(err, os.RemoveAll(building)))
	}
	if err := os.Rename(filepath.Join(building, "etcd"), filepath.Join(cfg.Dir, "etcd")); err != nil {
		return h, fmt.Errorf("restore: %w", err)
	}
	if err := syncDir(cfg.Dir); err != nil {
		return h, fmt.Errorf("restore: %w", err)
	}
	return h, os.RemoveAll(building)
}

// build makes a cluster of one in dir and fills it.
func build(ctx context.Context, cfg QuorumConfig, dir string, lines []line) error {
	cfg.Dir, cfg.Join = dir, false
	cfg.Cluster = InitialCluster(map[string]string{cfg.Name: cfg.Peer})
	cfg.Site += "/" + rand.Text() // a new identity
	return alone(ctx, cfg, false, func(kv clientv3.KV) error {
		var ops []clientv3.Op
		size := 0
		flush := func() error {
			if len(ops) == 0 {
				return nil
			}
			_, err := kv.Txn(ctx).Then(ops...).Commit()
			ops, size = nil, 0
			return err
		}
		// The epoch goes in last: without it nothing here counts as a state.
		slices.SortStableFunc(lines, func(a, b line) int { return order(a) - order(b) })
		for _, l := range lines {
			if l.Key == votersKey || l.Key == privatePrefix+"site" || strings.HasPrefix(l.Key, tokenPrefix) {
				continue
			}
			if l.Key == epochKey {
				var e fleet.EpochValue
				if err := json.Unmarshal(l.Value, &e); err != nil {
					return fmt.Errorf("read the epoch: %w", err)
				}
				l.Value = fleet.Put("epoch", fleet.EpochValue{Epoch: e.Epoch + EpochLeap}, "").Value
			}
			if strings.HasPrefix(l.Key, statePrefix+"holding/") {
				forgotten, err := forgetHolder(l.Value)
				if err != nil {
					return fmt.Errorf("read %s: %w", l.Key, err)
				}
				l.Value = forgotten
			}
			if size += len(l.Key) + len(l.Value); size > maxBytes/2 || len(ops) >= maxOps/2 {
				if err := flush(); err != nil {
					return err
				}
			}
			ops = append(ops, clientv3.OpPut(l.Key, string(l.Value)))
		}
		return flush()
	})
}

// bury proves the last boot of each host that is gone dead by a person's oath.
func bury(lines []line, gone []string, oath fleet.Wish) []line {
	var out []line
	for _, l := range lines {
		host, ok := strings.CutPrefix(l.Key, statePrefix+"member/")
		var m fleet.Member
		if !ok || !slices.Contains(gone, host) || json.Unmarshal(l.Value, &m) != nil || m.Admitted == "" {
			continue
		}
		p := fleet.Proof{
			Host: host, Boot: m.Admitted, Kind: "oath", By: oath.By, At: oath.At,
			Evidence: fmt.Sprintf("%s swore, when the quorum was recovered, that %s is off for good: %s", oath.By, host, oath.Why),
		}
		out = append(out, line{Key: statePrefix + "proof/" + host, Value: fleet.Put("", p, "").Value})
	}
	lines = slices.DeleteFunc(lines, func(l line) bool {
		return slices.ContainsFunc(out, func(o line) bool { return o.Key == l.Key })
	})
	return append(lines, out...)
}

// forgetHolder takes out of a holding who has it: things change hands after a
// backup, and without a store too, as a person's oath or a host's own end goes. So
// the hosts are asked first; the generation stays, for it must never fall.
func forgetHolder(raw []byte) ([]byte, error) {
	var h fleet.Holding
	if err := json.Unmarshal(raw, &h); err != nil {
		return nil, err
	}
	why := fmt.Sprintf("the store was restored; it last knew of %s", h.Host)
	if h.Host == "" {
		why = h.Why
	}
	return fleet.Put("", fleet.Holding{Thing: h.Thing, Generation: h.Generation, Why: why, At: h.At}, "").Value, nil
}

func order(l line) int {
	if l.Key == epochKey {
		return 1
	}
	return 0
}

// alone runs the data in cfg.Dir as a member without any listener, for the time
// of deed. With force the other members are struck out.
func alone(ctx context.Context, cfg QuorumConfig, force bool, deed func(clientv3.KV) error) error {
	ec, err := cfg.etcd()
	if err != nil {
		return err
	}
	ec.ListenPeerUrls, ec.ListenClientUrls = nil, nil
	ec.ForceNewCluster = force
	e, err := embed.StartEtcd(ec)
	if err != nil {
		return fmt.Errorf("open the store in %s: %w", cfg.Dir, err)
	}
	defer stop(e)
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		return fmt.Errorf("open the store in %s: %w", cfg.Dir, err)
	case <-e.Server.StopNotify():
		return fmt.Errorf("open the store in %s: it stopped by itself", cfg.Dir)
	case <-ctx.Done():
		return fmt.Errorf("open the store in %s: %w", cfg.Dir, ctx.Err())
	}
	kv := v3client.New(e.Server)
	defer kv.Close()
	return deed(kv)
}

// Recover makes a new cluster of one from this member's own data, after the
// majority was lost for ever. The member must not be running. The former data
// stay beside, in a directory that it returns. What the lost majority had
// decided without this member is gone, and a lost member that runs again is a
// second store with a second leader: that neither can be is the oath that the
// caller must have asked for: gone are the hosts that it names, which are then
// proved dead by it.
func Recover(ctx context.Context, cfg QuorumConfig, gone []string, oath fleet.Wish) (h Header, kept string, err error) {
	if !hasData(cfg.Dir) {
		return h, "", fmt.Errorf("recover: no store in %s", cfg.Dir)
	}
	unlock, err := lockDir(cfg.Dir)
	if err != nil {
		return h, "", fmt.Errorf("recover: %w", err)
	}
	// On a copy: the only data are not touched before what comes of them is whole.
	work := filepath.Join(cfg.Dir, "recovering")
	var saved bytes.Buffer
	err = func() error {
		defer unlock()
		if err := os.RemoveAll(work); err != nil {
			return err
		}
		if err := os.MkdirAll(work, 0o700); err != nil {
			return err
		}
		if err := os.CopyFS(filepath.Join(work, "etcd"), os.DirFS(filepath.Join(cfg.Dir, "etcd"))); err != nil {
			return err
		}
		copied := cfg
		copied.Dir = work
		if err := alone(ctx, copied, true, func(kv clientv3.KV) error {
			h, err = backup(ctx, kv, &saved, cfg.Site, "")
			return err
		}); err != nil {
			return err
		}
		kept = filepath.Join(cfg.Dir, "lost-"+time.Now().UTC().Format("20060102T150405Z"))
		return os.Rename(filepath.Join(cfg.Dir, "etcd"), kept)
	}()
	if cerr := os.RemoveAll(work); cerr != nil {
		err = errors.Join(err, cerr)
	}
	if err != nil {
		return h, "", fmt.Errorf("recover: %w", err)
	}
	if _, err := restore(ctx, cfg, &saved, func(lines []line) []line {
		return append(bury(lines, gone, oath), told(oath.By, fmt.Sprintf("recovered the store on %s alone, and swears that %v are off for good: %s", cfg.Name, gone, oath.Why)))
	}); err != nil {
		// As it was: the data are all there is.
		return h, "", fmt.Errorf("recover: %w", errors.Join(err, os.Rename(kept, filepath.Join(cfg.Dir, "etcd"))))
	}
	return h, kept, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
