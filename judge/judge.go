// Package judge turns testimony into verdicts: what do we hold true of each
// host, since when, and on whose word?
//
// A verdict never rests on one sign. A host that misses three beats is suspect:
// its servers leave the rotation, which is undone by the next beat and costs
// nobody anything. Only a majority of the ears, each by its own clock, can say
// that its lease has ended (lapsed). Only a proof makes it dead. Between these
// three lies everything that a hasty cluster manager gets wrong.
package judge

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"mainstay/fleet"
	"mainstay/lease"
)

// Judge returns the verdict on every host of the site's file.
func Judge(w fleet.World) map[string]fleet.Verdict {
	out := make(map[string]fleet.Verdict, len(w.Spec.Hosts))
	leader, _ := w.Spec.Host(w.Leader)
	fast := fast(&w.Spec)
	me := []string{w.Leader}
	missed := complaints(&w)
	for i := range w.Spec.Hosts {
		host := &w.Spec.Hosts[i]
		every := w.Spec.Timing.SlowBeat
		if host.Voter || fast[host.Name] {
			every = w.Spec.Timing.Beat
		}
		out[host.Name] = judge(&w, host, &leader, every, me, missed[host.Name])
	}
	return out
}

// fast names the hosts on which an exclusive thing may live, as Spec.CanHold
// says of each: found once for all of them.
func fast(spec *fleet.Spec) map[string]bool {
	out := make(map[string]bool, len(spec.Hosts))
	for _, a := range spec.Addresses {
		names := map[string]int{}
		for _, with := range a.With {
			if v, ok := spec.Service(with); ok {
				for _, home := range spec.Homes(v) {
					names[home]++
				}
			}
		}
		for i := range spec.Hosts {
			host := &spec.Hosts[i]
			fits := len(a.With) > 0 && names[host.Name] == len(a.With) || len(a.With) == 0 && host.HasRole("controller", "network")
			if _, there := host.Addresses[a.Network]; there && fits {
				out[host.Name] = true
			}
		}
	}
	for _, v := range spec.Services {
		if v.Mode.Exclusive() {
			for _, home := range spec.Homes(v) {
				out[home] = true
			}
		}
	}
	return out
}

func judge(w *fleet.World, host, leader *fleet.Host, every time.Duration, me, missed []string) fleet.Verdict {
	v := fleet.Verdict{Host: host.Name, Witnesses: me}
	h, ok := w.Heard[host.Name]
	if !ok || h.Last == 0 {
		v.Condition, v.Why = fleet.Unheard, "nothing heard of it since this leader began"
		if round, asked := w.Rounds[host.Name]; asked && round.Over {
			v.Condition, v.Stint, v.Witnesses = fleet.Lapsed, round.Stint, fleet.Sorted(round.Promised)
			v.Why = "nothing heard of it, and a majority of ears promised to acknowledge its last stint no more"
			if Silent(round, round.Stint.Boot) {
				v.Stint.N, v.Why = 0, "nothing heard of it by a majority of ears"
			}
		}
		return proved(w, offline(w, v), host.Name)
	}
	v.Stint = h.Stint
	silence := w.Now.Sub(h.Last)
	round, asked := w.Rounds[host.Name]
	switch {
	case asked && Silent(round, h.Stint.Boot) && h.Last.Before(round.Asked) && !w.Told[host.Name].After(round.Asked):
		// One that has reported since is not silent, though no beat of it has come yet.
		v.Condition, v.Witnesses = fleet.Lapsed, fleet.Sorted(round.Promised)
		v.Why = fmt.Sprintf("%s have heard nothing of it for long enough", strings.Join(v.Witnesses, ", "))
	case asked && round.Over && round.Stint == h.Stint:
		v.Condition, v.Witnesses = fleet.Lapsed, fleet.Sorted(round.Promised)
		v.Why = fmt.Sprintf("%s promised to acknowledge stint %d no more", strings.Join(v.Witnesses, ", "), h.Stint.N)
	case silence >= 3*every:
		v.Condition, v.Why = fleet.Suspect, "three beats missed on every network"
	case h.Rival != "":
		v.Condition, v.Why = fleet.Degraded, fmt.Sprintf("two boots of it speak at once (%s and %s): a clone or a returned snapshot", h.Stint.Boot, h.Rival)
	default:
		var doubt []string
		v.Silent, doubt = silentNetworks(w, host, leader, h, every)
		v.Condition, v.Why = fleet.Healthy, "heard on every network"
		if len(v.Silent) > 0 {
			v.Condition, v.Why = fleet.Degraded, "not heard over "+strings.Join(v.Silent, ", ")
		} else if len(doubt) > 0 {
			v.Condition, v.Why = fleet.Degraded, fmt.Sprintf("not heard over %s, and nobody else is there to say whose fault that is", strings.Join(doubt, ", "))
		} else if !h.Leased {
			v.Condition, v.Why = fleet.Degraded, "it is heard but says that no majority acknowledges it"
		}
		for _, network := range missed {
			says := Missing(w, host.Name, network)
			if len(says) == 0 {
				continue
			}
			text := fmt.Sprintf("not heard over %s by its neighbours %s", network, strings.Join(says, ", "))
			if v.Condition == fleet.Degraded {
				text = v.Why + "; " + text
			}
			v.Condition, v.Why, v.Silent = fleet.Degraded, text, append(slices.Clone(v.Silent), network)
			v.Witnesses = append(slices.Clone(v.Witnesses), says...)
		}
	}
	return proved(w, offline(w, v), host.Name)
}

// offline explains the silence of a host that said farewell and holds nothing: nobody
// need do anything about it, and it says nothing of our own eyes.
func offline(w *fleet.World, v fleet.Verdict) fleet.Verdict {
	if v.Condition == fleet.Healthy || v.Condition == fleet.Degraded {
		return v
	}
	bye := w.State.Members[v.Host].Left
	if bye == nil || v.Stint.Boot != "" && v.Stint.Boot != bye.Boot {
		return v
	}
	if r := w.Reports[v.Host]; r.Boot == bye.Boot && !r.Leaving {
		return v // it has spoken since
	}
	for _, thing := range fleet.Sorted(w.State.Holdings) {
		if w.State.Holdings[thing].Host == v.Host {
			return v
		}
	}
	v.Condition, v.Stint, v.Witnesses = fleet.Offline, fleet.Stint{Host: v.Host, Boot: bye.Boot, N: v.Stint.N}, []string{v.Host}
	v.Why = "its agent was stopped in good order at " + bye.At.UTC().Format(time.DateTime) + " UTC, and it holds nothing"
	if bye.Down {
		v.Why = "it was shut down in good order at " + bye.At.UTC().Format(time.DateTime) + " UTC, and holds nothing"
	}
	return v
}

// Silent says whether a round found that a majority of ears has heard nothing at
// all of a boot, which says more than that a stint of it is over.
func Silent(r fleet.Round, boot string) bool {
	return r.Over && r.Stint.Boot == boot && r.Stint.N == lease.AnyStint
}

// proved turns a verdict into Dead where the boot in question is proved dead.
// A beat of that boot that arrived after the silence began voids the proof: the
// host is then not silent, and the verdict stands as it is.
func proved(w *fleet.World, v fleet.Verdict, host string) fleet.Verdict {
	p, ok := w.State.Proofs[host]
	if !ok || v.Condition == fleet.Healthy || v.Condition == fleet.Degraded {
		return v
	}
	if v.Stint.Boot == "" || v.Stint.Boot == p.Boot {
		v.Condition, v.Why = fleet.Dead, p.Evidence
		v.Stint = fleet.Stint{Host: host, Boot: p.Boot, N: v.Stint.N}
	}
	return v
}

// silentNetworks lists the networks that the host shares with the leader and over which
// three of its beats were missed, while they were heard over others and the leader heard
// somebody else there: a leader that hears nobody over a network is itself cut off from
// it. In doubt are those on which nobody else is to be heard.
func silentNetworks(w *fleet.World, host, leader *fleet.Host, h fleet.Heard, every time.Duration) (out, doubt []string) {
	if leader.Name == "" || leader.Name == host.Name {
		return nil, nil
	}
	for i := range w.Spec.Networks {
		name := w.Spec.Networks[i].Name
		_, its := host.Addresses[name]
		if _, ours := leader.Addresses[name]; !its || !ours {
			continue
		}
		last := h.Nets[name]
		if last == 0 {
			last = w.Since // give a new leader the time to hear it
		}
		if w.Now.Sub(last) < 3*every {
			continue
		}
		switch others, later := heardThere(w, host.Name, name, last.Add(2*every), w.Now.Add(-3*every)); {
		case later:
			out = append(out, name)
		case !others:
			doubt = append(doubt, name)
		}
	}
	return out, doubt
}

// heardThere says whether others than the leader and this host, which beat fast and are
// heard, are on a network, and whether the leader heard one of them there since then, and
// not only again since the moment long: when a network is back it hears the one before the
// other.
func heardThere(w *fleet.World, but, network string, since, long fleet.Moment) (others, later bool) {
	for i := range w.Spec.Hosts {
		o := &w.Spec.Hosts[i]
		h := w.Heard[o.Name]
		if _, there := o.Addresses[network]; !there || o.Name == but || o.Name == w.Leader || !o.Voter && !w.Spec.CanHold(*o) {
			continue
		}
		if h.Last == 0 || w.Now.Sub(h.Last) >= 3*w.Spec.Timing.Beat {
			continue // silent over every network
		}
		others = true
		later = later || !h.Nets[network].Before(since) && !h.Again[network].After(long)
	}
	return others, later
}

// Lost lists the hosts that are neither healthy nor merely degraded, for the
// brakes: many at once is our own blindness until shown otherwise. Of one that is dead only
// because a later boot has spoken, that later one is lost, for nobody hears it.
func Lost(w fleet.World) []string {
	var out []string
	for i := range w.Spec.Hosts {
		name := w.Spec.Hosts[i].Name
		switch w.Verdicts[name].Condition {
		case fleet.Lapsed, fleet.Suspect, fleet.Unheard:
			out = append(out, name)
		case fleet.Dead:
			if w.State.Proofs[name].Kind == "reboot" {
				out = append(out, name)
			}
		}
	}
	return out
}
