package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"mainstay/fleet"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// cut splits a record's key into its kind and the rest.
func cut(key string) (kind, name string) {
	kind, name, _ = strings.Cut(key, "/")
	return kind, name
}

// Private returns a secret of the site, such as "ca.key", and its revision; a
// nil value with revision 0 if there is none.
func (c *Client) Private(ctx context.Context, key string) (value []byte, rev int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, opDeadline)
	defer cancel()
	got, err := c.kv.Get(ctx, privatePrefix+key)
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", key, err)
	}
	if len(got.Kvs) == 0 {
		return nil, 0, nil
	}
	return got.Kvs[0].Value, got.Kvs[0].ModRevision, nil
}

// PutPrivate writes a secret, if what stands is still of the revision that
// Private returned (0: nothing stands); else ErrChanged. The keys of tokens and
// voters are not its business.
func (c *Client) PutPrivate(ctx context.Context, key string, value []byte, rev int64) error {
	full := privatePrefix + key
	if key == "" || full == votersKey || strings.HasPrefix(full, tokenPrefix) {
		return fmt.Errorf("write %q: not a key for secrets", key)
	}
	ctx, cancel := context.WithTimeout(ctx, opDeadline)
	defer cancel()
	return c.swap(ctx, full, string(value), rev)
}

// swap puts value at key if what stands there has the revision rev.
func (c *Client) swap(ctx context.Context, key, value string, rev int64, more ...clientv3.Op) error {
	name := strings.TrimPrefix(key, privatePrefix)
	done, err := c.kv.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", rev)).
		Then(append([]clientv3.Op{clientv3.OpPut(key, value)}, more...)...).
		Commit()
	if err != nil {
		return fmt.Errorf("write %s: %w", name, outcome(err))
	}
	if !done.Succeeded {
		return fmt.Errorf("write %s: %w", name, ErrChanged)
	}
	return nil
}

// token is what is kept of a join token: never the token, only its hash, in the key.
type token struct {
	Expires time.Time `json:"expires"`
	// Used is by whom. A used token stays until it expires, so that the same
	// host may ask again when our answer was lost.
	Used string `json:"used,omitempty"`
}

// PutToken allows one host to join with the token of that hash, until expires.
// Tokens that have expired are removed.
func (c *Client) PutToken(ctx context.Context, hash string, expires time.Time) error {
	if hash == "" || strings.ContainsAny(hash, "/\x00") {
		return fmt.Errorf("put a join token: not a hash")
	}
	ctx, cancel := context.WithTimeout(ctx, opDeadline)
	defer cancel()
	all, err := c.kv.Get(ctx, tokenPrefix, clientv3.WithPrefix())
	if err != nil {
		return fmt.Errorf("read the join tokens: %w", err)
	}
	var old []clientv3.Op
	for _, kv := range all.Kvs {
		var t token
		if json.Unmarshal(kv.Value, &t) != nil || time.Now().After(t.Expires) {
			if string(kv.Key) != tokenPrefix+hash {
				old = append(old, clientv3.OpDelete(string(kv.Key)))
			}
		}
	}
	raw, err := json.Marshal(token{Expires: expires})
	if err != nil {
		return fmt.Errorf("put a join token: %w", err)
	}
	if err := c.swap(ctx, tokenPrefix+hash, string(raw), 0, old...); err != nil {
		return fmt.Errorf("put a join token: %w", err)
	}
	return nil
}

// UseToken uses the token of that hash up, and writes the records, if any, in
// the same transaction; the same records are allowed as with Wish. by names who
// uses it (a hash of its key, say): the same one may ask again after ErrUnknown
// and succeeds again, anybody else gets ErrToken, as does everybody after it
// expired by this host's wall clock.
func (c *Client) UseToken(ctx context.Context, hash, by string, records ...fleet.Record) error {
	if by == "" {
		return fmt.Errorf("use a join token: nobody uses it")
	}
	ctx, cancel := context.WithTimeout(ctx, opDeadline)
	defer cancel()
	key := tokenPrefix + hash
	got, err := c.kv.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("read a join token: %w", err)
	}
	if len(got.Kvs) == 0 {
		return fmt.Errorf("use a join token: no such token: %w", ErrToken)
	}
	var t token
	if err := json.Unmarshal(got.Kvs[0].Value, &t); err != nil {
		return fmt.Errorf("use a join token: %w", err)
	}
	switch {
	case time.Now().After(t.Expires):
		return fmt.Errorf("use a join token: expired at %s: %w", t.Expires.Format(time.RFC3339), ErrToken)
	case t.Used == by:
		return nil // the records were written with it
	case t.Used != "":
		return fmt.Errorf("use a join token: used already: %w", ErrToken)
	}
	t.Used = by
	raw, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("use a join token: %w", err)
	}
	ops, conds, err := wishes(records)
	if err != nil {
		return fmt.Errorf("use a join token: %w", err)
	}
	mine := clientv3.Compare(clientv3.ModRevision(key), "=", got.Kvs[0].ModRevision)
	done, err := c.kv.Txn(ctx).
		If(append(conds, mine)...).
		Then(append(ops, clientv3.OpPut(key, string(raw)))...).
		Else(clientv3.OpGet(key)).
		Commit()
	if err != nil {
		return fmt.Errorf("use a join token: %w", outcome(err))
	}
	if !done.Succeeded {
		now := done.Responses[0].GetResponseRange().Kvs
		if len(now) == 1 && now[0].ModRevision == got.Kvs[0].ModRevision {
			return fmt.Errorf("use a join token: the host is a member: %w", ErrExists)
		}
		return fmt.Errorf("use a join token: used already: %w", ErrToken)
	}
	c.mirror.wrote(done.Header.Revision, records, c.cfg.Log)
	return nil
}
