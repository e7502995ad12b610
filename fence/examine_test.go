package fence

import (
	"errors"
	"testing"

	"mainstay/fence/falsebmc"
	"mainstay/fleet"
)

// TestExamine: what would keep a device from proving is found, and nothing is switched.
func TestExamine(t *testing.T) {
	for name, c := range map[string]struct {
		fault falsebmc.Fault
		off   bool // it is off, and its host does not beat
		want  fleet.Outcome
		is    error
	}{
		"well":            {want: fleet.Done},
		"off":             {off: true, want: fleet.Done},
		"hangs":           {fault: falsebmc.Fault{Hang: true}, want: fleet.NoWord},
		"wrong password":  {fault: falsebmc.Fault{Locked: true}, want: fleet.Refused, is: ErrCredentials},
		"another chassis": {fault: falsebmc.Fault{UUID: "4c4c4544-0042-3510-8054-b7c04f4a3799"}, want: fleet.Refused, is: ErrIdentity},
		"lies":            {fault: falsebmc.Fault{Lies: true}, want: fleet.NoWord},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dev := redfishDevice(t, "basic")
			dev.params["deadline"] = "1s"
			dev.power.on.Store(!c.off)
			dev.faults.Set(c.fault)
			d, err := Open(fleet.Fence{Driver: "redfish", Params: dev.params})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			x := Examine(t.Context(), d, Target{Host: "c2", Boot: "b", UUID: uuidC2, By: "c1", Beats: dev.power.beats()})
			if OutcomeOf(x.Err) != c.want || c.is != nil && !errors.Is(x.Err, c.is) {
				t.Errorf("%+v", x)
			}
			if c.want == fleet.Done && (x.Power == On) == c.off {
				t.Errorf("power %q", x.Power)
			}
			if dev.power.on.Load() == c.off {
				t.Error("it was switched")
			}
		})
	}
	t.Run("a plug", func(t *testing.T) {
		dev := agentDevice(t)
		d, err := Open(fleet.Fence{Driver: "agent", Params: dev.params})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if x := Examine(t.Context(), d, Target{Host: "c2"}); x.Err != nil || x.Power != On || x.Machine != ErrNoIdentity.Error() {
			t.Errorf("%+v", x)
		}
	})
}
