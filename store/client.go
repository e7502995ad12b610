package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"mainstay/fleet"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// DialConfig says how to reach the member on this host.
type DialConfig struct {
	// Run is the directory of the two sockets: /run/mainstay.
	Run    string
	Timing fleet.Timing
	// Alive, if set, is asked before each ping. While it says no, there is no
	// ping, the lease runs out, and the member hands the lead over: so the loop
	// that decides must be what it watches, not the goroutine that pings.
	Alive func() bool
	Log   *slog.Logger

	saw func(Lead, fleet.Moment) // for tests of this package: each answer used, and when
}

// Client is the agent's side of the store. Its methods may be called from
// several goroutines.
type Client struct {
	cfg  DialConfig
	kv   *clientv3.Client
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	lead   leadKeeper
	mirror mirror
	prune  chan struct{}
	pruned pruning

	mu    sync.Mutex
	epoch raised       // what this client raised last
	last  fleet.Moment // when a write last went through
}

// raised is an epoch of ours, and the revision of etcd at which it was written:
// the very write that each Commit compares.
type raised struct {
	epoch uint64
	rev   int64
}

// Dial returns a client of the member on this host. It does not wait: a member
// that is not up yet, or goes down, is called again until Close. Use Ready to
// wait for the first State. ctx bounds nothing but the call.
func Dial(ctx context.Context, cfg DialConfig) (*Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{cfg: cfg, prune: make(chan struct{}, 1)}
	c.ctx, c.stop = context.WithCancel(context.Background())
	kv, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"unix://" + quorumSocket(cfg.Run)},
		Context:   c.ctx,
		Logger:    zap.NewNop(), // its errors come back from the calls
		DialOptions: []grpc.DialOption{
			grpc.WithTransportCredentials(insecure.NewCredentials()), // a Unix socket of mode 0600
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
				MinConnectTimeout: time.Second,
			}),
		},
	})
	if err != nil {
		c.stop()
		return nil, fmt.Errorf("dial the store at %s: %w", quorumSocket(cfg.Run), err)
	}
	c.kv = kv
	c.mirror.reset(0)
	c.lead.begin(cfg, c.mirror.reset)
	c.wg.Go(func() { c.lead.run(c.ctx) })
	c.wg.Go(c.follow)
	c.wg.Go(c.pruneLoop)
	c.wg.Go(c.pulse)
	return c, nil
}

// Close ends all that Dial started, and all watches. The lead is lost at the
// end of its lease; see Hold and MoveLead for a gentler way.
func (c *Client) Close() error {
	c.stop()
	c.wg.Wait()
	if err := c.kv.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close the store's client: %w", err)
	}
	return nil
}

// RaiseEpoch makes host the leader of a new epoch, above every one before, and
// returns the whole state as it stood no earlier than that. Whoever raised the
// former epoch can commit nothing from here on. Call it once for each Lead that
// Leads reports.
func (c *Client) RaiseEpoch(ctx context.Context, host string) (fleet.State, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, opDeadline)
	defer cancel()
	for {
		got, err := c.kv.Get(ctx, epochKey)
		if err != nil {
			return fleet.State{}, 0, fmt.Errorf("read the epoch: %w", err)
		}
		var before fleet.State
		var rev int64
		if len(got.Kvs) > 0 {
			rev = got.Kvs[0].ModRevision
			if before, err = before.Apply(fleet.Record{Key: "epoch", Value: got.Kvs[0].Value}); err != nil {
				return fleet.State{}, 0, fmt.Errorf("read the epoch: %w", err)
			}
		}
		epoch := before.Epoch + 1
		value := fleet.Put("epoch", fleet.EpochValue{Epoch: epoch, Leader: host}, "").Value
		put, err := c.kv.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(epochKey), "=", rev)).
			Then(clientv3.OpPut(epochKey, string(value))).
			Commit()
		if err != nil {
			return fleet.State{}, 0, fmt.Errorf("raise the epoch to %d: %w", epoch, outcome(err))
		}
		if !put.Succeeded {
			continue // another has raised it meanwhile: go above that
		}
		all, err := c.kv.Get(ctx, statePrefix, clientv3.WithPrefix())
		if err != nil {
			return fleet.State{}, 0, fmt.Errorf("read the state of epoch %d: %w", epoch, err)
		}
		state := c.mirror.load(all.Header.ClusterId, all.Header.Revision, all.Kvs, c.cfg.Log)
		if state.Epoch != epoch {
			return fleet.State{}, 0, fmt.Errorf("raise the epoch to %d, found %d of %s: %w", epoch, state.Epoch, state.Leader, ErrEpoch)
		}
		c.mu.Lock()
		c.epoch, c.last = raised{epoch: epoch, rev: put.Header.Revision}, now()
		c.mu.Unlock()
		return state, epoch, nil
	}
}

// Commit writes records and events in one transaction, if epoch is the newest
// and this client raised it. On success State shows the records at once. If two
// records name one key, the later one counts.
//
// ErrEpoch: superseded, surely nothing was written. ErrUnknown: no answer; the
// same Commit may be repeated. Any other error: refused, nothing was written.
func (c *Client) Commit(ctx context.Context, epoch uint64, records []fleet.Record, events []fleet.Event) error {
	c.mu.Lock()
	mine := c.epoch
	c.mu.Unlock()
	if mine.epoch != epoch || epoch == 0 {
		return fmt.Errorf("commit in epoch %d, this host raised %d: %w", epoch, mine.epoch, ErrEpoch)
	}
	ops, err := writes(records, func(string) error { return nil })
	if err != nil {
		return fmt.Errorf("commit in epoch %d: %w", epoch, err)
	}
	told, err := tell(events)
	if err != nil {
		return fmt.Errorf("commit in epoch %d: %w", epoch, err)
	}
	if ops = append(ops, told...); len(ops) == 0 {
		return nil
	}
	if err := fits(ops); err != nil {
		return fmt.Errorf("commit in epoch %d: %w", epoch, err)
	}
	ctx, cancel := context.WithTimeout(ctx, opDeadline)
	defer cancel()
	done, err := c.kv.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(epochKey), "=", mine.rev)).
		Then(ops...).
		Commit()
	if err != nil {
		return fmt.Errorf("commit %d records in epoch %d: %w", len(records), epoch, outcome(err))
	}
	if !done.Succeeded {
		return fmt.Errorf("commit in epoch %d: %w", epoch, ErrEpoch)
	}
	c.mirror.wrote(done.Header.Revision, records, c.cfg.Log)
	c.mu.Lock()
	c.last = now()
	c.mu.Unlock()
	if len(events) > 0 {
		c.wrote(len(events))
	}
	return nil
}

// pulseEvery is how long a leader may go without having written anything.
const pulseEvery = 3 * time.Second

// pulse writes a few bytes whenever this host leads and nothing was written for
// pulseEvery. A member whose disk hangs goes on leading as long as nobody writes: it
// saves nothing then, and its heartbeats and reads need no disk. One write stops its
// heartbeats, and another is elected while there is nothing to decide yet, rather
// than when a host has died.
func (c *Client) pulse() {
	for wait := pulseEvery; sleep(c.ctx, wait) == nil; {
		c.mu.Lock()
		mine, age := c.epoch, now().Sub(c.last)
		c.mu.Unlock()
		wait = pulseEvery
		if _, leads := c.Lead(); !leads || mine.epoch == 0 {
			continue
		}
		if age < pulseEvery {
			wait -= age
			continue
		}
		ctx, cancel := context.WithTimeout(c.ctx, opDeadline)
		done, err := c.kv.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(epochKey), "=", mine.rev)).
			Then(clientv3.OpPut(pulseKey, "")).
			Commit()
		cancel()
		switch {
		case err != nil && c.ctx.Err() == nil:
			c.cfg.Log.Warn("nothing can be written: the disk hangs, or most voters are away", "error", err)
		case err == nil && done.Succeeded:
			c.mu.Lock()
			c.last = now()
			c.mu.Unlock()
		}
	}
}

// Wish writes what people ask for, under no epoch: "wish/ID", put or removed,
// and "member/HOST", only while there is none (ErrExists), because a member
// that stands belongs to the leader. Other keys are refused. The errors are as
// with Commit.
func (c *Client) Wish(ctx context.Context, records []fleet.Record) error {
	ops, conds, err := wishes(records)
	if err != nil {
		return fmt.Errorf("wish: %w", err)
	}
	if len(ops) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, opDeadline)
	defer cancel()
	// For seconds after a cut a member hears the leader while its own words still go into
	// a dead connection. etcd sends a proposal once, and asks again for a read every 500 ms.
	if _, err := c.kv.Get(ctx, epochKey); err != nil {
		return fmt.Errorf("write a wish: this host's store does not reach a leader, nothing was written: %w", err)
	}
	done, err := c.kv.Txn(ctx).If(conds...).Then(ops...).Commit()
	if err != nil {
		return fmt.Errorf("write a wish: %w", outcome(err))
	}
	if !done.Succeeded {
		return fmt.Errorf("write a new member: %w", ErrExists)
	}
	c.mirror.wrote(done.Header.Revision, records, c.cfg.Log)
	return nil
}

// wishes checks what may be written without an epoch.
func wishes(records []fleet.Record) ([]clientv3.Op, []clientv3.Cmp, error) {
	var conds []clientv3.Cmp
	byKey := map[string]fleet.Record{}
	for _, r := range records {
		byKey[r.Key] = r
	}
	ops, err := writes(records, func(key string) error {
		switch kind, name := cut(key); {
		case kind == "wish" && name != "":
			return nil
		case kind == "member" && name != "" && byKey[key].Value != nil:
			conds = append(conds, clientv3.Compare(clientv3.CreateRevision(statePrefix+key), "=", 0))
			return nil
		}
		return fmt.Errorf("record %s needs an epoch", key)
	})
	if err != nil {
		return nil, nil, err
	}
	return ops, conds, fits(ops)
}

// writes turns records into operations, one for each key, in the order of the
// keys' first mention. Each value must be one that State can read.
func writes(records []fleet.Record, allow func(key string) error) ([]clientv3.Op, error) {
	if _, err := (fleet.State{}).Apply(records...); err != nil {
		return nil, err
	}
	last := map[string]int{}
	var keys []string
	for i, r := range records {
		if _, seen := last[r.Key]; !seen {
			keys = append(keys, r.Key)
		}
		last[r.Key] = i
	}
	var ops []clientv3.Op
	for _, k := range keys {
		key, err := stateKey(k)
		if err != nil {
			return nil, err
		}
		if key == epochKey {
			return nil, errors.New("the epoch is raised by RaiseEpoch alone")
		}
		if err := allow(k); err != nil {
			return nil, err
		}
		if v := records[last[k]].Value; v != nil {
			ops = append(ops, clientv3.OpPut(key, string(v)))
		} else {
			ops = append(ops, clientv3.OpDelete(key))
		}
	}
	return ops, nil
}

func fits(ops []clientv3.Op) error {
	size := 0
	for _, op := range ops {
		size += len(op.KeyBytes()) + len(op.ValueBytes())
	}
	if len(ops) > maxOps || size > maxBytes {
		return fmt.Errorf("%d operations with %d bytes in one transaction; at most %d and %d", len(ops), size, maxOps, maxBytes)
	}
	return nil
}

// outcome says what an error of a write means. Only what the server refuses
// before it proposes anything is surely not written; "no space" is told after
// the deed, and "unavailable" can be an answer lost.
func outcome(err error) error {
	if status.Code(err) == codes.InvalidArgument || errors.Is(err, rpctypes.ErrTooManyRequests) {
		return err
	}
	var e rpctypes.EtcdError
	if errors.As(err, &e) && e.Code() == codes.InvalidArgument {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}
