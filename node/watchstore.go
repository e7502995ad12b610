package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	"mainstay/fleet"
	"mainstay/store"
)

// storeEvery is how often a voter's agent asks its member of the store how it is, and
// how long that may take to answer.
const storeEvery = 2 * time.Second

// watchStore sees how this voter's member of the store is, and has the agent say so:
// one that follows is missed by nobody, until the next loss.
func (n *node) watchStore(ctx context.Context) {
	ticker := time.NewTicker(storeEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		asked, cancel := context.WithTimeout(ctx, storeEvery)
		st, err := n.store.Status(asked)
		cancel()
		if ctx.Err() == nil {
			n.agent.Store(storeState(st, err))
		}
	}
}

// storeState says what is wrong with a member of the store, by its own words.
func storeState(st store.Status, err error) fleet.StoreState {
	switch {
	case err != nil:
		return fleet.StoreState{Phase: fleet.StoreDown, Why: err.Error()}
	case slices.Contains(st.Alarms, "CORRUPT"):
		return fleet.StoreState{Phase: fleet.StoreCorrupt, Why: "it has raised CORRUPT"}
	case len(st.Alarms) > 0:
		return fleet.StoreState{Phase: fleet.StoreFull, Why: fmt.Sprintf("it has raised %s: it takes no more data", st.Alarms[0])}
	case st.Waits != "":
		return fleet.StoreState{Phase: fleet.StoreDown, Why: "it " + st.Waits}
	case st.Leader == "":
		return fleet.StoreState{Phase: fleet.StoreAlone, Why: fmt.Sprintf("it knows of no leader: does it reach the other voters at port %d?", QuorumPort)}
	}
	for _, v := range st.Voters {
		if v.Name == st.Name && v.Learner {
			return fleet.StoreState{Phase: fleet.StoreLearns, Why: fmt.Sprintf("%s gives it its vote when it has caught up", st.Leader)}
		}
	}
	return fleet.StoreState{}
}
