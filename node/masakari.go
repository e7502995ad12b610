package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"mainstay/api/masakari"
	"mainstay/fleet"
	"mainstay/openstack"
	"mainstay/plan"
	"mainstay/store"
)

// Masakari's API is served by each voter of a site whose file names a cloud, on a listener of
// its own beside the hosts' API, for its callers have tokens of Keystone's and no certificates.
// It listens on the site's addresses too, whether they are here or not, so that
// whoever speaks for one answers there.

// masakariKey is where the store has what is kept for that API: beside State, so that no
// decision can rest on it.
const masakariKey = "masakari"

const (
	// listenAgain is how soon a port is tried again that another program has: the Masakari
	// before this one, or its HAProxy.
	listenAgain = 30 * time.Second
	// settleEvery is how often open notifications are looked at while something changes.
	settleEvery = time.Second
)

// instanceHA is one voter's side of Masakari's API.
type instanceHA struct {
	*node
	cloud *cloud
}

// Caller implements masakari.Backend.
func (i *instanceHA) Caller(ctx context.Context, token string) (openstack.Caller, error) {
	client, err := i.cloud.open()
	if err != nil {
		return openstack.Caller{}, err
	}
	return client.Caller(ctx, token)
}

// Spec implements masakari.Backend.
func (i *instanceHA) Spec() fleet.Spec { return i.spec }

// State implements masakari.Backend.
func (i *instanceHA) State() fleet.State { return i.store.State() }

// Tell implements masakari.Backend.
func (i *instanceHA) Tell(ctx context.Context, by, about, what string) error {
	return i.tell(ctx, by, about, what)
}

// Kept implements masakari.Backend.
func (i *instanceHA) Kept(ctx context.Context) (fleet.Masakari, error) {
	kept, _, err := i.kept(ctx)
	return kept, err
}

func (i *instanceHA) kept(ctx context.Context) (kept fleet.Masakari, revision int64, err error) {
	raw, revision, err := i.store.Private(ctx, masakariKey)
	if err != nil {
		return kept, 0, err
	}
	if raw != nil {
		if err := json.Unmarshal(raw, &kept); err != nil {
			return kept, 0, fmt.Errorf("read what is kept for Masakari's API: %w", err)
		}
	}
	return kept, revision, nil
}

// Keep implements masakari.Backend.
func (i *instanceHA) Keep(ctx context.Context, change func(*fleet.Masakari) error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		kept, revision, err := i.kept(ctx)
		if err != nil {
			return err
		}
		if err := change(&kept); err != nil {
			return err
		}
		raw, err := json.Marshal(kept)
		if err != nil {
			return fmt.Errorf("write what is kept for Masakari's API: %w", err)
		}
		err = i.store.PutPrivate(ctx, masakariKey, raw, revision)
		if !errors.Is(err, store.ErrChanged) {
			return err
		}
		select { // somebody else was faster
		case <-ctx.Done():
			return err
		case <-time.After(rand.N(50 * time.Millisecond)):
		}
	}
}

// settle lets the statuses of notifications follow what this host decides, while it leads. It
// reads them when State has changed, as it does with each notification (history is told of it),
// and as long as one is open.
func (i *instanceHA) settle(ctx context.Context) {
	changes := i.store.Watch(ctx)
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	due := false
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-changes:
			if !ok {
				return
			}
			due = true
			continue
		case <-tick.C:
		}
		if !due {
			continue
		}
		w, _, leads := i.leader.Look(ctx)
		if !leads {
			continue // State changes again when it does
		}
		open, err := i.settleOnce(ctx, w)
		if err != nil && ctx.Err() == nil {
			i.log.Warn("Masakari's API: settle notifications", "error", err)
		}
		due = open || err != nil
	}
}

// settleOnce says whether a notification is open afterwards.
func (i *instanceHA) settleOnce(ctx context.Context, w fleet.World) (open bool, err error) {
	kept, err := i.Kept(ctx)
	if err != nil {
		return true, err
	}
	next, changed := plan.Notices(kept, w)
	if changed {
		err = i.Keep(ctx, func(kept *fleet.Masakari) error {
			next, _ = plan.Notices(*kept, w)
			*kept = next
			return nil
		})
	}
	for _, id := range fleet.Sorted(next.Notifications) {
		open = open || next.Notifications[id].Open()
	}
	return open, err
}

// serve serves the API until ctx ends. That a port is taken is no reason for anything else to
// wait: it is said once, and tried again.
func (i *instanceHA) serve(ctx context.Context) {
	server := &http.Server{
		Handler:           masakari.Handler(i, i.log, time.Now),
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(i.log.Handler(), slog.LevelDebug),
	}
	var secure *certificateFile
	if i.spec.TLS.Certificate != "" {
		secure = &certificateFile{path: i.spec.TLS.Certificate}
	}
	defer server.Close()
	lc := net.ListenConfig{Control: freebind}
	missing, told := i.listens(), map[netip.Addr]bool{}
	for {
		missing = slices.DeleteFunc(missing, func(at netip.Addr) bool {
			l, err := lc.Listen(ctx, "tcp", netip.AddrPortFrom(at, masakari.Port).String())
			if err != nil {
				if !told[at] && ctx.Err() == nil {
					i.log.Warn("Masakari's API is not served: another program has its port", "address", at, "port", masakari.Port, "error", err, "help", "stop masakari-api, or take it out of the former HAProxy")
				}
				told[at] = true
				return false
			}
			if secure != nil {
				l = tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: secure.get})
			}
			go func() { _ = server.Serve(l) }()
			return true
		})
		if len(missing) == 0 {
			<-ctx.Done()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(listenAgain):
		}
	}
}

// listens are the addresses on which it is served: this host's own, and all of the site.
func (i *instanceHA) listens() (out []netip.Addr) {
	me, _ := i.spec.Host(i.host)
	for _, network := range fleet.Sorted(me.Addresses) {
		out = append(out, me.Addresses[network])
	}
	for _, a := range i.spec.Addresses {
		out = append(out, a.Addr)
	}
	return out
}

// certificateFile is the site's certificate, read again when it was renewed.
type certificateFile struct {
	path string
	mu   sync.Mutex
	sum  [sha256.Size]byte
	pair *tls.Certificate
}

func (c *certificateFile) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	text, err := os.ReadFile(c.path)
	if err != nil {
		return nil, err
	}
	key := text
	if beside, err := os.ReadFile(c.path + ".key"); err == nil && !bytes.Contains(text, []byte("PRIVATE KEY-----")) {
		key = beside // HAProxy looks there too
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if sum := sha256.Sum256(append(slices.Clone(text), key...)); c.pair == nil || sum != c.sum {
		pair, err := tls.X509KeyPair(text, key)
		if err != nil {
			return nil, err
		}
		c.pair, c.sum = &pair, sum
	}
	return c.pair, nil
}
