package fence

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mainstay/fleet"
)

const uuidC2 = "4c4c4544-0042-3510-8054-b7c04f4a3732"

// script is a Driver that answers from lists; the last answer of each repeats.
type script struct {
	ids    []string
	states []any // Power or error
	offs   []error
	took   time.Duration // each call
	asked  []time.Time   // when State was called
	off    int           // how often Off was called
	idn    int
}

func nth[T any](list []T, n int) T { return list[min(n, len(list)-1)] }

func (s *script) Device() string          { return "script c2" }
func (s *script) Deadline() time.Duration { return 5 * time.Second }
func (s *script) Warnings() []string      { return nil }
func (s *script) Close()                  {}

func (s *script) Identity(context.Context) (string, error) {
	time.Sleep(s.took) // virtual: every test here runs in a synctest bubble
	s.idn++
	return nth(s.ids, s.idn-1), nil
}

func (s *script) State(context.Context) (Power, error) {
	s.asked = append(s.asked, time.Now())
	time.Sleep(s.took)
	switch v := nth(s.states, len(s.asked)-1).(type) {
	case error:
		return Unknown, v
	default:
		return v.(Power), nil
	}
}

func (s *script) Off(context.Context) error {
	time.Sleep(s.took)
	s.off++
	if len(s.offs) == 0 {
		return nil
	}
	return nth(s.offs, s.off-1)
}

func (s *script) On(context.Context) error { return nil }

func TestProve(t *testing.T) {
	says := func(o fleet.Outcome) error { return &Error{o, "script c2", "test", errors.New("scripted")} }
	lost, broken, refused := says(fleet.NoWord), says(fleet.Broken), says(fleet.Refused)
	me, other := []string{uuidC2}, "4c4c4544-0042-3510-8054-b7c04f4a3733"
	tests := []struct {
		name  string
		d     script
		uuid  string
		beats []uint64
		want  fleet.Outcome
		is    error
		offs  int
	}{
		{name: "off at once", d: script{ids: me, states: []any{Off}}, want: fleet.Done, offs: 1},
		{name: "off after a while", d: script{ids: me, states: []any{On, On, lost, broken, Off}}, want: fleet.Done, offs: 1},
		{name: "one answer to the order lost", d: script{ids: me, states: []any{Off}, offs: []error{lost, nil}}, want: fleet.Done, offs: 2},
		{name: "both answers to the order lost, yet off", d: script{ids: me, states: []any{Off}, offs: []error{lost}}, want: fleet.NoWord, offs: 2},
		{name: "the order refused, yet off", d: script{ids: me, states: []any{Off}, offs: []error{refused}}, want: fleet.Refused, offs: 1},
		{name: "the order not sent, yet off", d: script{ids: me, states: []any{Off}, offs: []error{broken}}, want: fleet.Broken, offs: 1},
		{name: "never off", d: script{ids: me, states: []any{On}}, want: fleet.NoWord, offs: 1},
		{name: "never an answer", d: script{ids: me, states: []any{lost}}, want: fleet.NoWord, offs: 1},
		{name: "refused while it waits", d: script{ids: me, states: []any{On, refused, Off}}, want: fleet.Refused, offs: 1},
		{name: "off, then on", d: script{ids: me, states: []any{Off, On}}, want: fleet.Broken, offs: 1},
		{name: "off, then no answer", d: script{ids: me, states: []any{Off, lost}}, want: fleet.NoWord, offs: 1},
		{name: "another machine", d: script{ids: []string{other}, states: []any{Off}}, want: fleet.Refused, is: ErrIdentity},
		{name: "another machine at the second answer", d: script{ids: []string{uuidC2, other}, states: []any{Off}}, want: fleet.Refused, is: ErrIdentity, offs: 1},
		{name: "no UUID", d: script{ids: []string{""}, states: []any{Off}}, want: fleet.Refused, is: ErrIdentity},
		{name: "the host's UUID is not known", d: script{ids: me, states: []any{Off}}, uuid: "-", want: fleet.Refused, is: ErrIdentity},
		{name: "both state a maker's placeholder", d: script{ids: []string{"03000200-0400-0500-0006-000700080009"}, states: []any{Off}},
			uuid: "03000200-0400-0500-0006-000700080009", want: fleet.Refused, is: ErrIdentity},
		{name: "both state zeros", d: script{ids: []string{"00000000-0000-0000-0000-000000000000"}, states: []any{Off}},
			uuid: "00000000-0000-0000-0000-000000000000", want: fleet.Refused, is: ErrIdentity},
		{name: "the same UUID in capitals", d: script{ids: []string{strings.ToUpper(uuidC2)}, states: []any{Off}}, want: fleet.Done, offs: 1},
		{name: "the same UUID in the other byte order", d: script{ids: []string{"44454c4c-4200-1035-8054-b7c04f4a3732"}, states: []any{Off}}, want: fleet.Done, offs: 1},
		{name: "it beats on", d: script{ids: me, states: []any{Off}}, beats: []uint64{7, 8}, want: fleet.NoWord, offs: 1},
		{name: "its last beat is old", d: script{ids: me, states: []any{Off}}, beats: []uint64{7, 7}, want: fleet.Done, offs: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt.d.took = 10 * time.Millisecond
				target := Target{Host: "c2", Boot: "b1", UUID: uuidC2, By: "c1"}
				if tt.uuid != "" {
					target.UUID = tt.uuid
				}
				if tt.beats != nil {
					n := 0
					target.Beats = func() uint64 { n++; return nth(tt.beats, n-1) }
				}
				start := time.Now()
				proof, err := Prove(t.Context(), &tt.d, target)
				if spent := time.Since(start); spent > Lasts(&tt.d) {
					t.Errorf("it took %s, more than the %s that Lasts promised", spent, Lasts(&tt.d))
				}
				if got := OutcomeOf(err); got != tt.want || tt.is != nil && !errors.Is(err, tt.is) {
					t.Fatalf("outcome %q, error %v; want %q", got, err, tt.want)
				}
				if tt.d.off != tt.offs {
					t.Errorf("off was ordered %d times, want %d", tt.d.off, tt.offs)
				}
				if err != nil {
					if proof != (fleet.Proof{}) {
						t.Errorf("an error came with a proof: %+v", proof)
					}
					return
				}
				if proof.Kind != "fence" || proof.Host != "c2" || proof.Boot != "b1" || proof.By != "c1" || proof.At.IsZero() {
					t.Errorf("proof %+v", proof)
				}
				last := len(tt.d.asked) - 1
				if d := tt.d.asked[last].Sub(tt.d.asked[last-1].Add(tt.d.took)); d < Apart {
					t.Errorf("asked again %s after the first answer, want at least %s", d, Apart)
				}
				for _, part := range []string{"script c2", uuidC2, stamp(tt.d.asked[last]), stamp(tt.d.asked[last-1].Add(tt.d.took))} {
					if !strings.Contains(proof.Evidence, part) {
						t.Errorf("the evidence does not name %q: %s", part, proof.Evidence)
					}
				}
			})
		})
	}
}

func TestProveIsCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &script{ids: []string{uuidC2}, states: []any{Off}}
		ctx, cancel := context.WithTimeout(t.Context(), Apart/2)
		defer cancel()
		if _, err := Prove(ctx, d, Target{Host: "c2", Boot: "b1", UUID: uuidC2}); OutcomeOf(err) != fleet.NoWord {
			t.Fatalf("between two answers the caller left, and the outcome was %q: %v", OutcomeOf(err), err)
		}
	})
}

// TestLasts: the new leader's patience must outlast every attempt, and the last
// order must be on its way long before it ends.
func TestLasts(t *testing.T) {
	if got := Lasts(&script{}); got > Longest || 3*maxDeadline > Longest*8/10 {
		t.Fatalf("lasts %s, orders until %s, of %s", got, 3*maxDeadline, Longest)
	}
	synctest.Test(t, func(t *testing.T) {
		d := &script{ids: []string{uuidC2}, states: []any{On}, took: 5 * time.Second}
		start := time.Now()
		_, err := Prove(t.Context(), d, Target{Host: "c2", Boot: "b1", UUID: uuidC2})
		if spent := time.Since(start); OutcomeOf(err) != fleet.NoWord || spent > Longest {
			t.Fatalf("after %s: %v", spent, err)
		}
	})
}

func TestConfirm(t *testing.T) {
	good := fleet.Proof{Host: "c2", Boot: "b1", Kind: "fence", Evidence: "before"}
	oath := good
	oath.Kind = "oath"
	later := good
	later.Boot = "b2"
	tests := []struct {
		name  string
		d     script
		proof fleet.Proof
		beats []uint64
		want  fleet.Outcome
	}{
		{"still off", script{ids: []string{uuidC2}, states: []any{Off}}, good, nil, fleet.Done},
		{"on again", script{ids: []string{uuidC2}, states: []any{On}}, good, nil, fleet.Broken},
		{"no answer", script{ids: []string{uuidC2}, states: []any{errors.New("?")}}, good, nil, fleet.NoWord},
		{"another machine", script{ids: []string{"0102"}, states: []any{Off}}, good, nil, fleet.Refused},
		{"it beats", script{ids: []string{uuidC2}, states: []any{Off}}, good, []uint64{1, 2}, fleet.NoWord},
		{"a proof of another kind", script{ids: []string{uuidC2}, states: []any{Off}}, oath, nil, fleet.Refused},
		{"a proof of another boot", script{ids: []string{uuidC2}, states: []any{Off}}, later, nil, fleet.Refused},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				target := Target{Host: "c2", Boot: "b1", UUID: uuidC2}
				if tt.beats != nil {
					n := 0
					target.Beats = func() uint64 { n++; return nth(tt.beats, n-1) }
				}
				got, err := Confirm(t.Context(), &tt.d, target, tt.proof)
				if OutcomeOf(err) != tt.want {
					t.Fatalf("outcome %q, want %q: %v", OutcomeOf(err), tt.want, err)
				}
				if tt.d.off > 0 {
					t.Fatal("it ordered the power off, where it should only ask")
				}
				if err != nil {
					return
				}
				twice, err := Confirm(t.Context(), &tt.d, target, got)
				if err != nil || len(twice.Evidence) != len(got.Evidence) || !strings.HasPrefix(got.Evidence, "before, and when asked once more at ") {
					t.Fatalf("evidence %q, then %q, error %v", got.Evidence, twice.Evidence, err)
				}
			})
		})
	}
}

// TestOrderThatHoldsNoMore: what became void on its way to the device is not sent, nor
// sent again.
func TestOrderThatHoldsNoMore(t *testing.T) {
	lost := &Error{fleet.NoWord, "script c2", "order it off", errors.New("lost")}
	for sent, want := range []fleet.Outcome{fleet.Refused, fleet.NoWord} {
		synctest.Test(t, func(t *testing.T) {
			d := &script{ids: []string{uuidC2}, states: []any{Off}, offs: []error{lost}}
			asked := 0
			_, err := Prove(t.Context(), d, Target{Host: "c2", Boot: "b", UUID: uuidC2, Still: func() error {
				if asked++; asked > sent {
					return errors.New("this host was frozen, and another leads")
				}
				return nil
			}})
			if err == nil || OutcomeOf(err) != want || d.off != sent {
				t.Errorf("%d offs were sent, want %d: %v", d.off, sent, err)
			}
		})
	}
}
