package fence

import (
	"errors"
	"strings"
	"testing"
	"time"

	"mainstay/fence/falsebmc"
	"mainstay/fleet"
)

// TestLevel: a host with two feeds is off only when both plugs are, and a device of the
// level that knows its machine is compared though the other one cannot be.
func TestLevel(t *testing.T) {
	open := func(t *testing.T) (bmc, strip device, d Driver, target Target) {
		t.Helper()
		t.Parallel()
		bmc, strip = redfishDevice(t, "basic"), agentDevice(t)
		bmc.params["deadline"], strip.params["deadline"] = "2s", "2s"
		d, err := OpenLevel(fleet.Level{{Driver: "redfish", Params: bmc.params}, {Driver: "agent", Params: strip.params}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Close)
		var n uint64
		return bmc, strip, d, Target{Host: "c2", Boot: "b", UUID: uuidC2, By: "c1",
			Others: func() map[string]uint64 { n++; return map[string]uint64{"c3": n} }}
	}
	on := func(bmc, strip device) [2]bool { return [2]bool{bmc.power.on.Load(), strip.power.on.Load()} }

	t.Run("both", func(t *testing.T) {
		bmc, strip, d, target := open(t)
		proof, err := Prove(t.Context(), d, target)
		if err != nil || on(bmc, strip) != [2]bool{} {
			t.Fatalf("%v, on %v", err, on(bmc, strip))
		}
		for _, part := range []string{"redfish", "fence_false", " and "} {
			if !strings.Contains(proof.Evidence, part) {
				t.Errorf("the evidence does not name %q: %s", part, proof.Evidence)
			}
		}
		strip.power.on.Store(true)
		if _, err := Confirm(t.Context(), d, target, proof); OutcomeOf(err) != fleet.Broken {
			t.Errorf("one plug is on again, and confirming said %v", err)
		}
		if err := PowerOn(t.Context(), d, target); err != nil || on(bmc, strip) != [2]bool{true, true} {
			t.Errorf("power on: %v, on %v", err, on(bmc, strip))
		}
	})
	t.Run("one does not answer", func(t *testing.T) {
		_, strip, d, target := open(t)
		strip.faults.Set(falsebmc.Fault{Hang: true})
		if _, err := Prove(t.Context(), d, target); OutcomeOf(err) != fleet.NoWord {
			t.Error(err)
		}
	})
	t.Run("one does nothing", func(t *testing.T) {
		_, strip, d, target := open(t)
		strip.faults.Set(falsebmc.Fault{Late: time.Hour})
		if _, err := Prove(t.Context(), d, target); OutcomeOf(err) != fleet.NoWord {
			t.Error(err)
		}
	})
	t.Run("one refuses, the other obeyed", func(t *testing.T) {
		bmc, strip, d, target := open(t)
		bmc.power.on.Store(true)
		bmc.faults.Set(falsebmc.Fault{Locked: true})
		if err := d.Off(t.Context()); OutcomeOf(err) != fleet.NoWord || on(bmc, strip) != [2]bool{true, false} {
			t.Errorf("%v, on %v", err, on(bmc, strip))
		}
		if _, err := Prove(t.Context(), d, target); OutcomeOf(err) != fleet.Refused {
			t.Error(err)
		}
	})
	t.Run("the cable of another chassis", func(t *testing.T) {
		bmc, strip, d, target := open(t)
		bmc.faults.Set(falsebmc.Fault{UUID: "4c4c4544-0042-3510-8054-b7c04f4a3799"})
		if _, err := Prove(t.Context(), d, target); !errors.Is(err, ErrIdentity) || on(bmc, strip) != [2]bool{true, true} {
			t.Errorf("%v, on %v", err, on(bmc, strip))
		}
	})
	t.Run("mistakes", func(t *testing.T) {
		_, err := OpenLevel(fleet.Level{{Driver: "redfisch"}, {Driver: "agent"}})
		for _, part := range []string{"redfisch", "missing"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("no word of %q in: %v", part, err)
			}
		}
	})
}
