package fence

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mainstay/fence/falsebmc"
	"mainstay/fleet"
)

// The contract: each row of Drivers keeps the promises of Driver, against a
// false device that can misbehave in every way we know. A new row needs one
// entry in falseDevices.

// device is a false device and the parameters that open it.
type device struct {
	params map[string]string
	faults *falsebmc.Faults
	power  *lamp
	stop   func() // the device no longer answers at all
	// blind: it knows no machine, and does not say why it refuses.
	blind bool
}

var falseDevices = map[string]func(t *testing.T) device{
	"redfish": func(t *testing.T) device { return redfishDevice(t, "basic") },
	"ipmi":    ipmiDevice,
	"agent":   agentDevice,
}

const rightPassword, wrongPassword = "tr0ub4dor&3", "correct-horse"

// lamp is power without a host.
type lamp struct{ on atomic.Bool }

func (l *lamp) State(context.Context) (bool, error) { return l.on.Load(), nil }
func (l *lamp) Off(context.Context) error           { l.on.Store(false); return nil }
func (l *lamp) On(context.Context) error            { l.on.Store(true); return nil }

func redfishDevice(t *testing.T, auth string) device {
	l, f := &lamp{}, &falsebmc.Faults{}
	l.on.Store(true)
	bmc := falsebmc.New(falsebmc.Config{UUID: uuidC2, User: "mainstay", Password: rightPassword, Power: l, Faults: f})
	s := httptest.NewServer(bmc)
	stop := func() { bmc.Close(); s.Close() }
	t.Cleanup(stop)
	return device{
		params: map[string]string{"url": s.URL, "insecure": "true", "user": "mainstay", "auth": auth,
			"password_file": secretFile(t, rightPassword+"\n")},
		faults: f, power: l, stop: stop,
	}
}

func secretFile(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// patience is a generous bound, only there so that a hanging test ends.
const patience = time.Minute

func TestContract(t *testing.T) {
	for _, row := range Drivers() {
		t.Run(row.Name, func(t *testing.T) {
			make, ok := falseDevices[row.Name]
			if !ok {
				t.Fatalf("driver %s has no false device: add one to falseDevices, so that its promises are tested", row.Name)
			}
			contract(t, row.Name, make)
		})
	}
	t.Run("redfish with sessions", func(t *testing.T) {
		contract(t, "redfish", func(t *testing.T) device { return redfishDevice(t, "session") })
	})
}

func contract(t *testing.T, name string, make func(*testing.T) device) {
	// open returns a device, and a driver for it with some parameters replaced.
	open := func(t *testing.T, with ...string) (device, Driver, context.Context) {
		t.Helper()
		t.Parallel()
		dev := make(t)
		params := maps.Clone(dev.params)
		for i := 0; i < len(with); i += 2 {
			params[with[i]] = with[i+1]
		}
		d, err := Open(fleet.Fence{Driver: name, Params: params})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Close)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		t.Cleanup(cancel)
		return dev, d, ctx
	}
	var others atomic.Uint64
	target := Target{Host: "c2", Boot: "b1", UUID: uuidC2, By: "c1",
		Others: func() map[string]uint64 { return map[string]uint64{"c3": others.Add(1)} }}
	// noProof proves with d and wants an error of that outcome without a secret.
	noProof := func(t *testing.T, ctx context.Context, d Driver, target Target, want fleet.Outcome) error {
		t.Helper()
		proof, err := Prove(ctx, d, target)
		if err == nil || proof != (fleet.Proof{}) {
			t.Fatalf("that is no proof: %+v", proof)
		}
		if ctx.Err() != nil {
			t.Fatal("only the test's own time ended it")
		}
		if got := OutcomeOf(err); got != want {
			t.Fatalf("outcome %q, want %q: %v", got, want, err)
		}
		silent(t, d, err)
		return err
	}

	t.Run("off, on and state, each twice", func(t *testing.T) {
		dev, d, ctx := open(t)
		if id, err := d.Identity(ctx); dev.blind != errors.Is(err, ErrNoIdentity) || !dev.blind && (err != nil || id != uuidC2) {
			t.Fatalf("identity %q, %v", id, err)
		}
		for _, step := range []struct {
			do   func(context.Context) error
			want Power
		}{{d.On, On}, {d.Off, Off}, {d.Off, Off}, {d.On, On}, {d.On, On}, {d.Off, Off}} {
			if err := step.do(ctx); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if got, err := d.State(ctx); err != nil || got != step.want {
					t.Fatalf("state %q, %v; want %q", got, err, step.want)
				}
			}
			if dev.power.on.Load() != (step.want == On) {
				t.Fatal("state and truth differ")
			}
		}
	})

	t.Run("an honest device proves, and confirms", func(t *testing.T) {
		dev, d, ctx := open(t)
		target := target
		target.Beats = dev.power.beats()
		proof, err := Prove(ctx, d, target)
		if err != nil || dev.power.on.Load() {
			t.Fatalf("on %v, error %v", dev.power.on.Load(), err)
		}
		machine := uuidC2
		if dev.blind {
			machine = "c3"
		}
		for _, part := range []string{d.Device(), machine} {
			if !strings.Contains(proof.Evidence, part) {
				t.Errorf("the evidence does not name %q: %s", part, proof.Evidence)
			}
		}
		if strings.Contains(proof.Evidence, rightPassword) {
			t.Error("the evidence holds the password")
		}
		if _, err := Confirm(ctx, d, target, proof); err != nil {
			t.Error(err)
		}
		dev.power.on.Store(true)
		if _, err := Confirm(ctx, d, target, proof); OutcomeOf(err) != fleet.Broken {
			t.Errorf("the host is on again, and confirming said %v", err)
		}
		dev.power.on.Store(false)
		if err := PowerOn(ctx, d, target); err != nil || !dev.power.on.Load() {
			t.Errorf("power on: on %v, %v", dev.power.on.Load(), err)
		}
		// Once more on the same driver, from on.
		if _, err := Prove(ctx, d, Target{Host: "c2", Boot: "b2", UUID: uuidC2, Others: target.Others}); err != nil {
			t.Error(err)
		}
	})

	t.Run("a host that is off already", func(t *testing.T) {
		dev, d, ctx := open(t)
		dev.power.on.Store(false)
		if _, err := Prove(ctx, d, target); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("many drivers one after another", func(t *testing.T) {
		dev, _, ctx := open(t)
		for range 20 { // more than a BMC keeps sessions
			d, err := Open(fleet.Fence{Driver: name, Params: dev.params})
			if err != nil {
				t.Fatal(err)
			}
			_, err = d.State(ctx)
			d.Close()
			if err != nil {
				t.Fatal(err)
			}
		}
	})

	t.Run("wrong password", func(t *testing.T) {
		dev, d, ctx := open(t, "password_file", secretFile(t, wrongPassword))
		_, state := d.State(ctx)
		calls := map[string]error{"state": state, "off": d.Off(ctx), "on": d.On(ctx)}
		if dev.blind {
			for call, err := range calls {
				if err == nil {
					t.Errorf("%s was taken", call)
				}
				silent(t, d, err)
			}
			noProof(t, ctx, d, target, fleet.NoWord)
			return
		}
		_, calls["identity"] = d.Identity(ctx)
		for call, err := range calls {
			if !errors.Is(err, ErrCredentials) || OutcomeOf(err) != fleet.Refused {
				t.Errorf("%s: %v", call, err)
			}
			silent(t, d, err)
		}
		if err := noProof(t, ctx, d, target, fleet.Refused); !errors.Is(err, ErrCredentials) {
			t.Error(err)
		}
		if !dev.power.on.Load() {
			t.Error("it was turned off")
		}
	})

	t.Run("password changed under way", func(t *testing.T) {
		dev, d, ctx := open(t)
		if _, err := d.State(ctx); err != nil {
			t.Fatal(err)
		}
		dev.faults.Set(falsebmc.Fault{Locked: true})
		if dev.blind {
			noProof(t, ctx, d, target, fleet.NoWord)
		} else if err := noProof(t, ctx, d, target, fleet.Refused); !errors.Is(err, ErrCredentials) {
			t.Error(err)
		}
		dev.faults.Set(falsebmc.Fault{})
		if _, err := d.State(ctx); err != nil {
			t.Errorf("it did not recover: %v", err)
		}
	})

	t.Run("hang", func(t *testing.T) {
		dev, d, ctx := open(t, "deadline", "200ms")
		dev.faults.Set(falsebmc.Fault{Hang: true})
		p, state := d.State(ctx)
		if p != Unknown {
			t.Errorf("state %q", p)
		}
		calls := map[string]error{"state": state, "off": d.Off(ctx), "on": d.On(ctx)}
		if !dev.blind {
			_, calls["identity"] = d.Identity(ctx)
		}
		for call, err := range calls {
			if err == nil || OutcomeOf(err) != fleet.NoWord {
				t.Errorf("%s: %v", call, err)
			}
		}
		noProof(t, ctx, d, target, fleet.NoWord)
	})

	t.Run("slow, within the deadline", func(t *testing.T) {
		dev, d, ctx := open(t, "deadline", "8s")
		dev.faults.Set(falsebmc.Fault{Slow: 20 * time.Millisecond})
		if _, err := Prove(ctx, d, target); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("slow, past the deadline", func(t *testing.T) {
		dev, d, ctx := open(t, "deadline", "200ms")
		dev.faults.Set(falsebmc.Fault{Slow: time.Hour})
		noProof(t, ctx, d, target, fleet.NoWord)
	})

	t.Run("lies", func(t *testing.T) {
		dev, d, ctx := open(t)
		dev.faults.Set(falsebmc.Fault{Lies: true})
		target := target
		target.Beats = dev.power.beats()
		noProof(t, ctx, d, target, fleet.NoWord)
		if !dev.power.on.Load() {
			t.Error("the false device is false in the wrong way")
		}
	})

	t.Run("late", func(t *testing.T) {
		dev, d, ctx := open(t, "deadline", "1s")
		dev.faults.Set(falsebmc.Fault{Late: time.Hour})
		noProof(t, ctx, d, target, fleet.NoWord)
		if !dev.power.on.Load() {
			t.Error("the false device was early")
		}
	})

	t.Run("late, but not too late", func(t *testing.T) {
		dev, d, ctx := open(t, "deadline", "8s")
		dev.faults.Set(falsebmc.Fault{Late: 300 * time.Millisecond})
		target := target
		target.Beats = dev.power.beats()
		if _, err := Prove(ctx, d, target); err != nil || dev.power.on.Load() {
			t.Fatalf("on %v, %v", dev.power.on.Load(), err)
		}
	})

	t.Run("lost answer", func(t *testing.T) {
		dev, d, ctx := open(t)
		dev.faults.Set(falsebmc.Fault{Lost: true})
		noProof(t, ctx, d, target, fleet.NoWord)
		if dev.power.on.Load() {
			t.Error("the false device did not act")
		}
		dev.faults.Set(falsebmc.Fault{})
		if _, err := Prove(ctx, d, target); err != nil {
			t.Errorf("asking again, with an answer, proves: %v", err)
		}
	})

	t.Run("the cable of another chassis", func(t *testing.T) {
		dev, d, ctx := open(t)
		if dev.blind {
			return // TestBlindDevice
		}
		dev.faults.Set(falsebmc.Fault{UUID: "4c4c4544-0042-3510-8054-b7c04f4a3799"})
		if err := noProof(t, ctx, d, target, fleet.Refused); !errors.Is(err, ErrIdentity) {
			t.Error(err)
		}
		if !dev.power.on.Load() {
			t.Error("a stranger's machine was turned off")
		}
		dev.power.on.Store(false)
		if err := PowerOn(ctx, d, target); !errors.Is(err, ErrIdentity) || dev.power.on.Load() {
			t.Errorf("a stranger's machine was turned on: %v, %v", dev.power.on.Load(), err)
		}
	})

	t.Run("nobody there", func(t *testing.T) {
		dev, d, ctx := open(t)
		dev.stop()
		want := fleet.Broken
		if dev.blind {
			want = fleet.NoWord
		}
		noProof(t, ctx, d, target, want)
	})
}

// beats returns a Target's Beats for a host that beats as long as it has power.
func (l *lamp) beats() func() uint64 {
	var n uint64
	return func() uint64 {
		if l.on.Load() {
			n++
		}
		return n
	}
}

// silent fails if an error, or the driver when somebody prints it, holds a secret.
func silent(t *testing.T, d Driver, err error) {
	t.Helper()
	for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%+v", d), fmt.Sprintf("%#v", d)} {
		for _, s := range []string{rightPassword, wrongPassword} {
			if strings.Contains(text, s) {
				t.Errorf("a secret stands in: %s", text)
			}
		}
	}
}
