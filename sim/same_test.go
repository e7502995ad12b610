package sim

import (
	"reflect"
	"testing"
	"time"

	"mainstay/fleet"
)

// TestSame changes every field of a report and sees that it is then another one, but
// for its numbers and its time.
func TestSame(t *testing.T) {
	for i := range reflect.TypeFor[fleet.Report]().NumField() {
		var r fleet.Report
		name := reflect.TypeFor[fleet.Report]().Field(i).Name
		f := reflect.ValueOf(&r).Elem().Field(i)
		switch f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Uint64:
			f.SetUint(1)
		case reflect.Int64:
			f.SetInt(1)
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Map:
			f.Set(reflect.MakeMap(f.Type()))
			f.SetMapIndex(reflect.ValueOf("x"), reflect.Zero(f.Type().Elem()))
		default:
			for _, other := range []any{time.Unix(1, 0), fleet.StoreState{Phase: fleet.StoreDown}, fleet.Guests{Asked: true}, fleet.StorageWord{Failed: "x"}} {
				if v := reflect.ValueOf(other); v.Type() == f.Type() {
					f.Set(v)
				}
			}
			if f.IsZero() {
				t.Fatalf("%s: no other value is known of %v", name, f.Type())
			}
		}
		if got, want := same(&fleet.Report{}, &r), name == "Seq" || name == "News" || name == "Wall"; got != want {
			t.Errorf("a report with another %s is the same: %v", name, got)
		}
	}
}
