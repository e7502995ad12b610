package sim

import (
	"cmp"
	"slices"

	"mainstay/fleet"
)

// A copy in mode promoted: it is started on every home, by nobody but Mainstay, and is
// promoted and demoted besides. What the audits call running is to be promoted.

func (u *unit) promotable() bool { return u.service.Mode == fleet.Promoted }

// setRole notes whether it is promoted, and tells the audits.
func (u *unit) setRole(promoted bool) {
	if u.promoted != promoted {
		u.promoted = promoted
		u.host.site.watch.runs(u, promoted)
		if u.mirror != nil && promoted {
			u.host.site.mirror.promoted(u.mirror)
		}
	}
}

// stands: what stands on another starts only where that runs, or is promoted, and has
// stopped before that is stopped or demoted.
func (w *watch) stands(u *unit, j job) {
	for _, o := range u.host.copies {
		on := o.phase == fleet.Running && (!o.promotable() || o.promoted)
		switch starts := j.verb == fleet.VerbStart && !u.promotable(); {
		case starts && slices.Contains(u.service.With, o.service.Thing()) && !on && u.phase != fleet.Running:
			w.fail("what it stands on", "%s starts on %s, and %s is %s there", u.service.Thing(), u.host.name, o.service.Thing(), cmp.Or(o.role(), o.phase))
		case !starts && j.verb != fleet.VerbPromote && j.verb != fleet.VerbStart && slices.Contains(o.service.With, u.service.Thing()) && o.alive() && u.role() != fleet.RoleUnpromoted:
			w.fail("what it stands on", "%s shall %s on %s, and %s is %s on it", u.service.Thing(), j.verb, u.host.name, o.service.Thing(), o.phase)
		}
	}
}

// turn promotes or demotes it: it takes a while, and what does not run cannot be
// promoted.
func (u *unit) turn(verb fleet.Verb, generation uint64, done func(err string)) {
	s := u.host.site
	promote := verb == fleet.VerbPromote
	if promote {
		s.watch.starts(u, generation)
	}
	switch {
	case promote && u.phase != fleet.Running:
		done("it is " + u.phase)
		return
	case u.promoted == promote: // also what does not run is not promoted
		if promote {
			u.generation = generation
		}
		done("")
		return
	}
	life := u.life
	u.turning = fleet.Stopping
	if promote {
		u.turning = fleet.Starting // from now on it may be promoted
	}
	u.notice()
	turned := func(err string) {
		u.turning, u.generation = "", 0
		if promote && err == "" {
			u.generation = generation
		}
		u.setRole(promote && err == "")
		u.notice()
		done(err)
	}
	s.after(s.between(20*millisecond, 400*millisecond), func() {
		switch {
		case u.life != life || !u.host.on || u.phase != fleet.Running:
		case promote && u.mirror != nil:
			s.mirror.promote(u.mirror, turned)
		default:
			turned("")
		}
	})
}

// role is what its monitor says: promoted unless it surely is not.
func (u *unit) role() string {
	switch {
	case !u.promotable():
		return ""
	case u.promoted || u.turning != "":
		return fleet.RolePromoted
	}
	return fleet.RoleUnpromoted
}
