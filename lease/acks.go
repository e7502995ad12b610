package lease

import "mainstay/fleet"

// Acks decides which copies of a slow beat need an acknowledgement. A beat goes to each ear over
// each network that its host shares with it, so that it arrives; were each copy acknowledged, the
// voters of thousands of hosts would spend more on that than on all else, to say the same many times.
//
// While all is well each ear acknowledges each beat over one network, and each network brings the
// acknowledgement of one ear, another one each time. That is what a lease, Telling and Paths live on. An
// ear that has not acknowledged the beat before is asked over every network, over a network that
// brought no acknowledgement of it every ear is asked, and a way on which one did not come counts for
// nothing until some have come in a row. So what is cut is found as soon as if all were asked always, and costs
// one beat of one ear; and where datagrams are lost again and again, nearly all are asked (HOLES 120).
type Acks struct {
	ways           []*way
	by             map[Way]*way
	ears, networks map[string]*party
	last           fleet.Moment // when the newest beat was sent
	turn           int
}

// Way is that of one copy of a beat: to an ear, over a network.
type Way struct{ Ear, Network string }

// way is a Way that is sure when its last acknowledgements came, each that was asked for.
type way struct {
	ear, network *party
	acked        fleet.Moment // when the newest beat was sent whose acknowledgement came on it
	asked        bool         // for that of the newest beat
	came         int          // one after another, so far
}

// sure is how many acknowledgements in a row make a way sure.
const sure = 3

// party is an ear, or a network.
type party struct {
	acked fleet.Moment // when the newest beat was sent that it acknowledged, or that was so over it
	asked bool         // on a way that works, for that of the present beat
}

// NewAcks begins with nothing acknowledged; ways are those of each beat.
func NewAcks(ways []Way) *Acks {
	a := &Acks{by: map[Way]*way{}, ears: map[string]*party{}, networks: map[string]*party{}}
	for _, w := range ways {
		if a.ears[w.Ear] == nil {
			a.ears[w.Ear] = &party{}
		}
		if a.networks[w.Network] == nil {
			a.networks[w.Network] = &party{}
		}
		a.by[w] = &way{ear: a.ears[w.Ear], network: a.networks[w.Network]}
		a.ways = append(a.ways, a.by[w])
	}
	return a
}

// Acked notes that the acknowledgement of the beat sent at sent came back on a way.
func (a *Acks) Acked(on Way, sent fleet.Moment) {
	if w := a.by[on]; w != nil {
		w.acked, w.ear.acked, w.network.acked = max(w.acked, sent), max(w.ear.acked, sent), max(w.network.acked, sent)
	}
}

// Wanted says of each way whether the copy on it of the beat sent at now is to be
// acknowledged. It must be called once for each beat.
func (a *Acks) Wanted(now fleet.Moment) []bool {
	out := make([]bool, len(a.ways))
	for i, w := range a.ways {
		w.ear.asked, w.network.asked = false, false
		switch {
		case w.asked && w.acked.Before(a.last):
			w.came = 0
		case w.asked:
			w.came = min(w.came+1, sure)
		}
		out[i] = w.came < sure || w.ear.acked.Before(a.last) || w.network.acked.Before(a.last)
	}
	want := func(needed func(*way) bool) {
		for k := range a.ways {
			if i := (k + a.turn) % len(a.ways); !out[i] && needed(a.ways[i]) {
				out[i], a.ways[i].ear.asked, a.ways[i].network.asked = true, true, true
			}
		}
	}
	want(func(w *way) bool { return !w.ear.asked && !w.network.asked })
	want(func(w *way) bool { return !w.ear.asked || !w.network.asked })
	for i, w := range a.ways {
		w.asked = out[i]
	}
	a.last, a.turn = now, a.turn+1
	return out
}
