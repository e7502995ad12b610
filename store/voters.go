package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Voters change one at a time [one-voter]. Two rules are kept here. etcd's own:
// each change shares a majority with the one before. And that of the ears, who
// keep the leases of addresses and learn of a change only when they are told:
// while they are being told, two lists are in use, and these must not be two
// steps apart. So each change of the vote leaves a mark, "open", in the store,
// and the next one is refused (ErrUnsettled) until Settle removes it.
//
// A new voter comes in three steps: AddVoter makes it a learner, which has no
// vote; its host starts its member with the Cluster that AddVoter answered;
// Promote gives it the vote when it has caught up.

// openChange is the mark.
type openChange struct {
	Promote string    `json:"promote,omitempty"`
	Remove  string    `json:"remove,omitempty"`
	At      time.Time `json:"at"`
}

func (o openChange) String() string {
	if o.Remove != "" {
		return "removal of " + o.Remove
	}
	return "promotion of " + o.Promote
}

// Voters lists the members, sorted by name. It asks the quorum; see Status for
// what the member on this host knows alone.
func (c *Client) Voters(ctx context.Context) ([]Voter, error) {
	ctx, cancel := context.WithTimeout(ctx, opDeadline)
	defer cancel()
	all, err := c.members(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Voter, len(all))
	for i, m := range all {
		out[i] = Voter{Name: m.Name, Peer: strings.Join(m.PeerURLs, ","), Learner: m.IsLearner}
	}
	slices.SortFunc(out, func(a, b Voter) int { return strings.Compare(a.Name+a.Peer, b.Name+b.Peer) })
	return out, nil
}

func (c *Client) members(ctx context.Context) ([]*pb.Member, error) {
	all, err := c.kv.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the voters: %w", err)
	}
	return all.Members, nil
}

// AddVoter makes room for the member of host name at peer, as a learner, and
// returns the Cluster with which it must be started (Join set, its Dir empty).
// Asked again for the same it answers the same, until that member has started:
// then ErrExists. One learner at a time: ErrUnsettled while there is another. It
// may answer ErrUnhealthy, as the other changes of members.
func (c *Client) AddVoter(ctx context.Context, name, peer string) (cluster string, err error) {
	ctx, cancel := context.WithTimeout(ctx, opDeadline)
	defer cancel()
	if _, err := peerURL(peer); err != nil {
		return "", fmt.Errorf("add voter %s: %w", name, err)
	}
	all, err := c.members(ctx)
	if err != nil {
		return "", fmt.Errorf("add voter %s: %w", name, err)
	}
	there := false
	for _, m := range all {
		at := slices.Contains(m.PeerURLs, peer)
		switch {
		case at && m.Name == "":
			there = true
		case at && m.Name == name:
			// It has its name from its first start. Another that begins with nothing
			// under the same number would have forgotten what it voted.
			return "", fmt.Errorf("add voter %s: it has started already; a new machine in its place needs it to be replaced first: %w", name, ErrExists)
		case at:
			return "", fmt.Errorf("add voter %s: %s is the peer of %s", name, peer, m.Name)
		case m.Name == name:
			return "", fmt.Errorf("add voter %s: it is there, at %s: %w", name, strings.Join(m.PeerURLs, ","), ErrExists)
		case m.IsLearner:
			// Not left to etcd to refuse: it has the proposal in its log by then, and
			// each member that starts anew would seek the refused one for ever.
			return "", fmt.Errorf("add voter %s: %s still learns: %w", name, m.PeerURLs, ErrUnsettled)
		}
	}
	if !there {
		added, err := c.kv.MemberAddAsLearner(ctx, []string{peer})
		if err != nil {
			return "", fmt.Errorf("add voter %s: %w", name, refusal(err))
		}
		all = added.Members
	}
	peers := map[string]string{}
	for _, m := range all {
		if slices.Contains(m.PeerURLs, peer) {
			peers[name] = peer
		} else {
			peers[m.Name] = m.PeerURLs[0]
		}
	}
	return InitialCluster(peers), nil
}

// Promote gives a learner its vote: ErrBehind until it has caught up (ask
// again), ErrUnsettled while the former change is open. What has its vote
// already is left alone.
func (c *Client) Promote(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, opDeadline)
	defer cancel()
	m, err := c.member(ctx, name)
	if err != nil {
		return fmt.Errorf("promote %s: %w", name, err)
	}
	if !m.IsLearner {
		return nil
	}
	return c.change(ctx, openChange{Promote: name}, func() error {
		_, err := c.kv.MemberPromote(ctx, m.ID)
		return err
	})
}

// RemoveVoter takes a member out, dead or alive; a live one stops by itself.
// Refused if the others could not go on without it. A learner goes at once.
func (c *Client) RemoveVoter(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, opDeadline)
	defer cancel()
	m, err := c.member(ctx, name)
	if err != nil {
		return fmt.Errorf("remove voter %s: %w", name, err)
	}
	remove := func() error {
		_, err := c.kv.MemberRemove(ctx, m.ID)
		return err
	}
	if m.IsLearner {
		if err := remove(); err != nil {
			return fmt.Errorf("remove learner %s: %w", name, refusal(err))
		}
		return nil
	}
	return c.change(ctx, openChange{Remove: name}, remove)
}

// RemoveLearner takes out the learner at peer, which never started and so has no name.
func (c *Client) RemoveLearner(ctx context.Context, peer string) error {
	ctx, cancel := context.WithTimeout(ctx, opDeadline)
	defer cancel()
	all, err := c.members(ctx)
	if err != nil {
		return fmt.Errorf("remove learner %s: %w", peer, err)
	}
	for _, m := range all {
		if m.Name == "" && m.IsLearner && slices.Contains(m.PeerURLs, peer) {
			if _, err := c.kv.MemberRemove(ctx, m.ID); err != nil {
				return fmt.Errorf("remove learner %s: %w", peer, refusal(err))
			}
		}
	}
	return nil
}

// ReplaceVoter removes a dead voter and makes room for its successor, which may
// be the same host with an empty disk. It answers as AddVoter does; Promote
// must wait until Settle has closed the removal. It may be repeated.
func (c *Client) ReplaceVoter(ctx context.Context, dead, name, peer string) (cluster string, err error) {
	all, err := c.Voters(ctx)
	if err != nil {
		return "", fmt.Errorf("replace voter %s: %w", dead, err)
	}
	begun := slices.ContainsFunc(all, func(v Voter) bool { return v.Learner && v.Peer == peer && v.Name == "" })
	if !begun && slices.ContainsFunc(all, func(v Voter) bool { return v.Name == dead }) {
		if err := c.RemoveVoter(ctx, dead); err != nil {
			return "", fmt.Errorf("replace voter %s: %w", dead, err)
		}
	}
	return c.AddVoter(ctx, name, peer)
}

// Unsettled says which change of voters is open; empty if none.
func (c *Client) Unsettled(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, opDeadline)
	defer cancel()
	open, _, err := c.open(ctx)
	if err != nil || open == (openChange{}) {
		return "", err
	}
	return open.String(), nil
}

// Settle closes the open change. Call it when every ear goes by the list of
// voters given here, and Timing.Promise has passed since. If the voters are
// others by now it is refused with ErrChanged.
func (c *Client) Settle(ctx context.Context, confirmed []string) error {
	ctx, cancel := context.WithTimeout(ctx, opDeadline)
	defer cancel()
	_, rev, err := c.open(ctx)
	if err != nil {
		return fmt.Errorf("settle the voters: %w", err)
	}
	if rev == 0 {
		return nil
	}
	all, err := c.members(ctx)
	if err != nil {
		return fmt.Errorf("settle the voters: %w", err)
	}
	var have []string
	for _, m := range all {
		if !m.IsLearner {
			have = append(have, m.Name)
		}
	}
	slices.Sort(have)
	if want := slices.Sorted(slices.Values(confirmed)); !slices.Equal(have, want) {
		return fmt.Errorf("settle the voters: the ears confirmed %v, the store has %v: %w", want, have, ErrChanged)
	}
	return c.closeChange(ctx, rev)
}

func (c *Client) member(ctx context.Context, name string) (*pb.Member, error) {
	all, err := c.members(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if m.Name == name && name != "" {
			return m, nil
		}
	}
	return nil, fmt.Errorf("no such member")
}

func (c *Client) open(ctx context.Context) (openChange, int64, error) {
	got, err := c.kv.Get(ctx, votersKey)
	if err != nil {
		return openChange{}, 0, fmt.Errorf("read the open change of voters: %w", err)
	}
	if len(got.Kvs) == 0 {
		return openChange{}, 0, nil
	}
	var o openChange
	if err := json.Unmarshal(got.Kvs[0].Value, &o); err != nil {
		return openChange{}, 0, fmt.Errorf("read the open change of voters: %w", err)
	}
	return o, got.Kvs[0].ModRevision, nil
}

// change marks a change as open and then makes it. If it surely was not made,
// the mark goes again; if nobody knows, it stays, and the same change may be
// asked for again.
func (c *Client) change(ctx context.Context, o openChange, deed func() error) error {
	before, rev, err := c.open(ctx)
	if err != nil {
		return err
	}
	again := before.Promote == o.Promote && before.Remove == o.Remove
	if rev != 0 && !again && fleet.Armed(fleet.GuardOneVoter) {
		return fmt.Errorf("%s: the %s is open since %s: %w", o, before, before.At.Format(time.RFC3339), ErrUnsettled)
	}
	o.At = time.Now().UTC().Truncate(time.Second)
	raw, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("%s: %w", o, err)
	}
	marked, err := c.kv.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(votersKey), "=", rev)).
		Then(clientv3.OpPut(votersKey, string(raw))).
		Commit()
	if err != nil {
		return fmt.Errorf("%s: %w", o, outcome(err))
	}
	if !marked.Succeeded {
		return fmt.Errorf("%s: another change began meanwhile: %w", o, ErrUnsettled)
	}
	err = deed()
	if err == nil {
		return nil
	}
	err = refusal(err)
	if !errors.Is(err, ErrUnknown) && !again {
		if cerr := c.closeChange(ctx, marked.Header.Revision); cerr != nil {
			return fmt.Errorf("%s: %w (and its mark stays: %w)", o, err, cerr)
		}
	}
	return fmt.Errorf("%s: %w", o, err)
}

// refusal says what an error of a change of members means: those that etcd
// gives before it proposes anything are plain, the others are ErrUnknown.
func refusal(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrMemberLearnerNotReady):
		return ErrBehind
	case errors.Is(err, rpctypes.ErrUnhealthy), errors.Is(err, rpctypes.ErrMemberNotEnoughStarted):
		return fmt.Errorf("%w: %w", ErrUnhealthy, err)
	}
	for _, e := range []error{rpctypes.ErrMemberNotFound, rpctypes.ErrMemberNotLearner, rpctypes.ErrTooManyLearners, rpctypes.ErrMemberExist, rpctypes.ErrPeerURLExist} {
		if errors.Is(err, e) {
			return err
		}
	}
	return outcome(err)
}

func (c *Client) closeChange(ctx context.Context, rev int64) error {
	done, err := c.kv.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(votersKey), "=", rev)).
		Then(clientv3.OpDelete(votersKey)).
		Commit()
	if err != nil {
		return fmt.Errorf("close the change of voters: %w", outcome(err))
	}
	if !done.Succeeded {
		return fmt.Errorf("close the change of voters: %w", ErrChanged)
	}
	return nil
}
