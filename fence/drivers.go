package fence

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"mainstay/fleet"
)

// Row is one kind of device.
type Row struct {
	Name  string // as in the site's file: fence: {driver: NAME}
	About string // one sentence
	// Params are all parameters that New reads. A parameter outside this list is
	// refused before New is called, so the list is also the whole documentation.
	Params []Param
	// More, where set, gives the parameters that depend on others: those of the
	// program that is named. Its error is a *ParamError.
	More func(raw map[string]string) ([]Param, error)
	// New returns a driver for parameters that were found in Params. It touches
	// no device. Its error joins one *ParamError for each mistake.
	New func(*Params) (Driver, error)
}

// Param documents one parameter.
type Param struct {
	Name, Doc string
	// Default is what holds when the parameter is absent; "" if there is none.
	Default string
	// Required parameters must be given.
	Required bool
	// Secret parameters are never written in the site's file: in place of NAME
	// it has NAME_file or NAME_env.
	Secret bool
}

// Drivers is the table of all drivers.
func Drivers() []Row {
	return []Row{
		redfish,
		ipmi,
		agent,
	}
}

// Open returns the driver that f describes, without touching any device. Its
// error joins a *ParamError for each mistake that was found, so that one run of
// `mainstay check` reports them all.
func Open(f fleet.Fence) (Driver, error) {
	var names []string
	for _, row := range Drivers() {
		if row.Name == f.Driver {
			return row.open(f.Params)
		}
		names = append(names, row.Name)
	}
	return nil, &ParamError{Param: "driver", Text: fmt.Sprintf("no fence driver is called %q; there are: %s",
		f.Driver, strings.Join(names, ", "))}
}

// Check opens the driver that f describes and closes it again. It returns what
// is unwise and, joined in one error, what is wrong.
func Check(f fleet.Fence) (warnings []string, err error) {
	d, err := Open(f)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Warnings(), nil
}

func (r Row) open(raw map[string]string) (Driver, error) {
	p := &Params{raw: raw}
	if r.More != nil && raw[r.Params[0].Name] != "" {
		more, err := r.More(raw)
		if err != nil {
			return nil, err
		}
		r.Params = append(slices.Clone(r.Params), more...)
	}
	for _, key := range fleet.Sorted(raw) {
		r.admit(p, key)
	}
	for _, doc := range r.Params {
		given := raw[doc.Name] != ""
		if doc.Secret {
			given = given || raw[doc.Name+"_file"] != "" || raw[doc.Name+"_env"] != "" // in clear it is there, and told as such
		}
		if doc.Required && !given {
			p.fail(doc.keys()[0], "missing: %s", doc.Doc)
		}
	}
	d, err := r.New(p)
	if err = errors.Join(append(p.errs, err)...); err != nil {
		if d != nil {
			d.Close()
		}
		return nil, err
	}
	return d, nil
}

// admit refuses a key that the row does not know, and a secret written in clear.
func (r Row) admit(p *Params, key string) {
	var known []string
	for _, doc := range r.Params {
		if doc.Secret && key == doc.Name {
			p.fail(key, "a secret does not belong in the site's file, which every host keeps and every support bundle "+
				"contains: write it to a file that only root reads and give %s_file: /etc/mainstay/..., or %s_env: NAME of an "+
				"environment variable", key, key)
			return
		}
		known = append(known, doc.keys()...)
	}
	if !slices.Contains(known, key) {
		p.fail(key, "driver %s has no such parameter; it has: %s", r.Name, strings.Join(known, ", "))
	}
}

func (d Param) keys() []string {
	if d.Secret {
		return []string{d.Name + "_file", d.Name + "_env"}
	}
	return []string{d.Name}
}
