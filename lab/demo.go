package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"mainstay/api"
	"mainstay/fleet"
)

// Demo is the story that "make demo" tells: three faults on a site that carries a
// real Keystone, seen by a client outside.
type Demo struct {
	Lab    *Lab
	Binary string // this program, for the client's probe; empty: the running one
	Live   func(string)
	// Watching, if not nil, is told of the client's log as soon as it is written.
	Watching func(*Log)
	// sabotage, in tests, takes something away just before a fault.
	sabotage func(ctx context.Context, victim string) error
}

// promise is within what time the demo says that the client is served again. It
// is far above what "mainstay check" computes, because the machine may be busy;
// the figures printed are what was measured.
const promise = 10 * time.Second

// Fault is one fault of the demo, with its timeline.
type Fault struct {
	Title  string        `json:"title"`
	Victim string        `json:"victim"`
	At     time.Time     `json:"at"` // when the deed was done
	Steps  []Step        `json:"steps"`
	Gap    time.Duration `json:"gap"` // the longest silence that the client met
	Failed int           `json:"failed"`
	Tries  int           `json:"tries"`
	Broken string        `json:"broken,omitempty"` // the promise that was not kept
}

// Result is all that the demo has measured.
type Result struct {
	Faults []Fault       `json:"faults"`
	Slots  int           `json:"slots"` // of 100 ms, over the whole demo
	Good   int           `json:"good"`  // with at least one success
	Lasted time.Duration `json:"lasted"`
	// Gap is the client's longest time without an answer in the whole demo, also
	// while hosts return; it began After the demo did.
	Gap    time.Duration `json:"gap"`
	After  time.Duration `json:"after"`
	Broken []string      `json:"broken,omitempty"`
}

// Run plays the three faults one after another. An error means that the demo
// could not be played; a broken promise is in the Result.
func (d Demo) Run(ctx context.Context) (Result, error) {
	var r Result
	l := d.Lab
	if err := d.awaitService(ctx, l.Hosts[0].Name, "every Keystone ready", len(l.Hosts)); err != nil {
		return r, err
	}
	url := fmt.Sprintf("http://%s:5000/v3", l.Virtual()["internal"])
	log, err := l.Watch(ctx, Probe{URL: url, Every: ProbeEvery, Patience: ProbePatience, Expect: 200}, d.binary())
	if err != nil {
		return r, err
	}
	if d.Watching != nil {
		d.Watching(log)
	}
	begun := time.Now()
	for _, play := range []func(context.Context, *Log) (Fault, error){d.holderDies, d.leaderDies, d.keystoneHangs} {
		f, err := play(ctx, log)
		if err != nil {
			_, stopped := log.Stop()
			return r, errors.Join(err, stopped)
		}
		if f.Broken != "" {
			r.Broken = append(r.Broken, f.Title+": "+f.Broken)
		}
		r.Faults = append(r.Faults, f)
		if f.Broken != "" {
			break // what follows would only be the echo of it
		}
	}
	ended := time.Now()
	tries, err := log.Stop()
	if err != nil {
		return r, err
	}
	r.Lasted = ended.Sub(begun)
	r.Good, r.Slots = Slots(tries, begun, ended, 100*time.Millisecond)
	gap, since, _ := Gap(tries, begun, ended)
	if r.Gap = gap; gap > 0 {
		r.After = since.Sub(begun)
	}
	if gap > promise && len(r.Broken) == 0 {
		r.Broken = append(r.Broken, fmt.Sprintf("between the faults the client was not served for %v; promised were %v at most", gap.Round(time.Millisecond), promise))
	}
	return r, nil
}

func (d Demo) binary() string {
	if d.Binary != "" {
		return d.Binary
	}
	return "/proc/self/exe"
}

func (d Demo) say(format string, args ...any) {
	if d.Live != nil {
		d.Live(fmt.Sprintf(format, args...))
	}
}

// status asks the first host that answers.
func (d Demo) status(ctx context.Context) (api.Status, error) {
	var errs []error
	for _, m := range d.Lab.Hosts {
		on, err := d.Lab.Powered(m.Name)
		if err != nil || !on {
			continue
		}
		s, err := d.Lab.SiteStatus(ctx, m.Name)
		if err == nil && s.Leader != "" {
			return s, nil
		}
		errs = append(errs, err)
	}
	return api.Status{}, errors.Join(append(errs, errors.New("no host answers"))...)
}

func (d Demo) awaitService(ctx context.Context, _ string, what string, ready int) error {
	err := until(ctx, siteBound, func() error {
		s, err := d.status(ctx)
		if err != nil {
			return err
		}
		n := 0
		for _, v := range s.Services {
			if v.Name != "keystone" {
				continue
			}
			for _, c := range v.Copies {
				if c.Ready {
					n++
				}
			}
		}
		for _, h := range s.Holdings {
			if !h.Works {
				return fmt.Errorf("%s does not work yet", h.Thing)
			}
		}
		for _, h := range s.Hosts {
			if h.Condition != fleet.Healthy {
				return fmt.Errorf("%s is %s", h.Name, h.Condition)
			}
		}
		if n < ready {
			return fmt.Errorf("%d of %d Keystones are ready", n, ready)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("waiting for %s: %w", what, err)
	}
	return nil
}

func (d Demo) holder(ctx context.Context, thing string) (string, error) {
	s, err := d.status(ctx)
	if err != nil {
		return "", err
	}
	for _, h := range s.Holdings {
		if h.Thing == thing && h.Works {
			return h.Host, nil
		}
	}
	return "", fmt.Errorf("%s is held by nobody", thing)
}

func (d Demo) holderDies(ctx context.Context, log *Log) (Fault, error) {
	victim, err := d.holder(ctx, internalAddress)
	if err != nil {
		return Fault{}, err
	}
	return d.dies(ctx, log, "the host that holds the internal address loses power", victim)
}

func (d Demo) leaderDies(ctx context.Context, log *Log) (Fault, error) {
	s, err := d.status(ctx)
	if err != nil {
		return Fault{}, err
	}
	return d.dies(ctx, log, "the store's leader loses power", s.Leader)
}

const internalAddress = "address/internal" // what the client asks through

// followed is the thing by which a host's loss is told: what the client depends on,
// else another address, else a service, else no more than the lead.
func followed(s api.Status, victim string) string {
	best, rank := "leader", 0
	for _, h := range s.Holdings {
		r := 1
		switch {
		case h.Host != victim:
			continue
		case h.Thing == internalAddress:
			r = 3
		case strings.HasPrefix(h.Thing, "address/"):
			r = 2
		}
		if r > rank {
			best, rank = h.Thing, r
		}
	}
	return best
}

// dies switches a host off, watches the client, and brings the host back.
func (d Demo) dies(ctx context.Context, log *Log, title, victim string) (Fault, error) {
	f := Fault{Title: title, Victim: victim}
	s, err := d.status(ctx)
	if err != nil {
		return f, err
	}
	thing := followed(s, victim)
	if d.sabotage != nil {
		if err := d.sabotage(ctx, victim); err != nil {
			return f, err
		}
	}
	d.say("%s: %s", title, victim)
	deed, err := d.Lab.PowerOff(ctx, victim)
	if err != nil {
		return f, err
	}
	f.At = deed.At
	d.measure(ctx, log, &f)
	if f.Broken == "" && d.await(ctx, &f, func() []Step { return d.Lab.timeline(ctx, f.At, victim, thing) }) {
		f.Broken = fmt.Sprintf("no event tells within %v that %s was taken over from %s", promise, thing, victim)
	}
	f.tell(log)
	if f.Broken != "" {
		return f, nil
	}
	d.say("%s is turned on again", victim)
	if _, err := d.Lab.Start(ctx, victim); err != nil {
		return f, err
	}
	return f, d.awaitService(ctx, "", victim+" to be back", len(d.Lab.Hosts))
}

func (d Demo) keystoneHangs(ctx context.Context, log *Log) (Fault, error) {
	victim := d.Lab.Hosts[len(d.Lab.Hosts)-1].Name
	f := Fault{Title: "Keystone hangs on one host (SIGSTOP)", Victim: victim}
	by, err := d.holder(ctx, internalAddress)
	if err != nil {
		return f, err
	}
	d.say("%s: %s", f.Title, victim)
	deed, err := d.Lab.Hang(ctx, victim, "keystone.service")
	if err != nil {
		return f, err
	}
	f.At = deed.At
	d.measure(ctx, log, &f)
	if d.await(ctx, &f, func() []Step { return hangSteps(d.Lab.events(ctx), f.At, "keystone", victim, by) }) && f.Broken == "" {
		f.Broken = fmt.Sprintf("no event tells within %v that the hung Keystone left the rotation of %s", promise, by)
	}
	f.tell(log)
	// Mainstay may have killed and started it by itself in the meantime: then there
	// is nothing left to resume, and that is as well.
	if _, err := d.Lab.Resume(ctx, victim, "keystone.service"); err != nil {
		d.say("%v", err)
	}
	if f.Broken != "" {
		return f, nil
	}
	return f, d.awaitService(ctx, "", "the hung Keystone to be back", len(d.Lab.Hosts))
}

// await gathers what the events tell of a fault until they tell that it was taken
// over, and says whether they do not within the promise.
func (d Demo) await(ctx context.Context, f *Fault, told func() []Step) (missing bool) {
	err := until(ctx, time.Until(f.At.Add(promise+calm)), func() error {
		f.Steps = told()
		if !slices.ContainsFunc(f.Steps, func(s Step) bool { return s.Name == "taken over" }) {
			return errors.New("not yet")
		}
		return nil
	})
	return err != nil
}

// tell completes a fault's steps with what the lab and the client wrote down.
func (f *Fault) tell(log *Log) {
	f.Steps = append([]Step{{"happened", f.At, "the lab's own record"}}, f.Steps...)
	if s, ok := answered(log.Tries(), f.At, ProbePatience); ok {
		f.Steps = append(f.Steps, s)
	}
	slices.SortStableFunc(f.Steps, func(a, b Step) int { return a.At.Compare(b.At) })
}

// calm is for how long the client must be served without a failure before a
// fault counts as survived.
const calm = 2 * time.Second

// measure watches the client until it has been served for a while, or the
// promise is broken.
func (d Demo) measure(ctx context.Context, log *Log, f *Fault) {
	bound := f.At.Add(promise + calm)
	for time.Now().Before(bound) && ctx.Err() == nil {
		now := time.Now()
		tries := log.Tries()
		lastBad := f.At
		good := 0
		for i := len(tries) - 1; i >= 0 && tries[i].Begun.After(f.At); i-- {
			if tries[i].OK {
				good++
				continue
			}
			lastBad = tries[i].Begun
			break
		}
		if good > 0 && now.Sub(lastBad) > calm {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	end := time.Now()
	tries := log.Tries()
	f.Gap, _, _ = Gap(tries, f.At, end)
	for _, t := range tries {
		if t.Begun.After(f.At) {
			f.Tries++
			if !t.OK {
				f.Failed++
			}
		}
	}
	if f.Gap > promise || f.Tries == f.Failed {
		f.Broken = fmt.Sprintf("the client was not served for %v; promised were %v at most", f.Gap.Round(time.Millisecond), promise)
	}
}

// FaultsPerYear is the stated rate for the computed availability: each of three
// hosts loses power four times a year, and a service hangs once a week.
const FaultsPerYear = 3*4 + 52

// Print writes the result for people.
func (r Result) Print(out io.Writer) error {
	for _, f := range r.Faults {
		fmt.Fprintf(out, "\n%s: %s\n", f.Title, f.Victim)
		w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
		for _, s := range f.Steps {
			text := s.Source
			if len(text) > 110 {
				text = text[:110] + "..."
			}
			fmt.Fprintf(w, "  %+8.3f s\t%s\t%s\n", s.At.Sub(f.At).Seconds(), s.Name, text)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintf(out, "  the client's longest time without an answer: %v (%d of %d tries failed)\n", f.Gap.Round(time.Millisecond), f.Failed, f.Tries)
		if f.Broken != "" {
			fmt.Fprintf(out, "  BROKEN: %s\n", f.Broken)
		}
	}
	if r.Slots > 0 {
		fmt.Fprintf(out, "\nmeasured: %d of %d slots of 100 ms had an answer (%.3f %%) in %v with %d faults\n",
			r.Good, r.Slots, 100*float64(r.Good)/float64(r.Slots), r.Lasted.Round(time.Second), len(r.Faults))
		fmt.Fprintf(out, "the longest time without an answer, hosts' returns included: %v, %v after the beginning\n", r.Gap.Round(time.Millisecond), r.After.Round(100*time.Millisecond))
		down := float64(FaultsPerYear) * r.Gap.Seconds()
		share := down / (365.25 * 24 * 3600)
		fmt.Fprintf(out, "computed: %d faults a year, each as long as that, are %.0f s of downtime: availability %.5f %%, %.1f nines\n",
			FaultsPerYear, down, 100*(1-share), -math.Log10(share))
	}
	if len(r.Broken) == 0 {
		_, err := fmt.Fprintln(out, "Every promise was kept.")
		return err
	}
	_, err := fmt.Fprintf(out, "%d promises were broken.\n", len(r.Broken))
	return err
}
