package auth

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// ended notes how holders end.
type ended struct {
	mu   sync.Mutex
	seen map[string]error
}

func (e *ended) hold(l *Live, name string, c Credential) func() {
	return l.Hold(c, func(err error) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.seen == nil {
			e.seen = map[string]error{}
		}
		if e.seen[name] != nil {
			panic(name + " ended twice")
		}
		e.seen[name] = err
	})
}

func (e *ended) of(name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seen[name]
}

func TestLiveEndsByTokenAndKey(t *testing.T) {
	revoked := map[string]bool{}
	l := NewLive(func(id string) bool { return revoked[id] })
	defer l.Close()
	var e ended
	k := zoneKey(t)
	keys := keysOf(k)
	backed := Credential{ID: "d", Key: k.ID, keys: keys, proof: proof{kid: k.ID, key: k.Signer.Public()}}
	e.hold(l, "a1", Credential{ID: "a", Key: "k"})
	e.hold(l, "a2", Credential{ID: "a", Key: "k"})
	e.hold(l, "b", Credential{ID: "b", Key: "k"})
	e.hold(l, "c", Credential{ID: "c", Key: "other"})
	e.hold(l, "d", backed)
	e.hold(l, "released", Credential{ID: "a", Key: "k"})()
	e.hold(l, "nobody", Credential{})

	l.Changed("a", "b") // nothing was taken back
	if len(e.seen) != 0 {
		t.Fatalf("ended: %v", e.seen)
	}
	revoked["a"] = true
	l.Changed("a")
	if !errors.Is(e.of("a1"), ErrRevoked) || !errors.Is(e.of("a2"), ErrRevoked) || len(e.seen) != 2 {
		t.Fatalf("ended: %v", e.seen)
	}
	revoked["k"] = true
	l.Changed("k")
	if !errors.Is(e.of("b"), ErrRevoked) || len(e.seen) != 3 {
		t.Fatalf("ended: %v", e.seen)
	}
	delete(keys, k.ID)
	l.CheckAll()
	if !errors.Is(e.of("d"), ErrUnknownKey) || len(e.seen) != 4 {
		t.Fatalf("ended: %v", e.seen)
	}
	// What was taken back before it was held ends within Hold.
	e.hold(l, "late", Credential{ID: "a"})()
	if !errors.Is(e.of("late"), ErrRevoked) || e.of("c") != nil || e.of("released") != nil {
		t.Fatalf("ended: %v", e.seen)
	}
	if len(l.byID) != 2 {
		t.Errorf("still known: %v", l.byID)
	}
}

// One timer serves all expiries, in any order of coming and going.
func TestLiveExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLive(nil)
		defer l.Close()
		var e ended
		start := time.Now()
		for _, s := range []int{30, 10, 20, 10} {
			for range 2 {
				e.hold(l, fmt.Sprintf("%d-%d", s, len(l.expiries)), Credential{ID: fmt.Sprint(s), Expires: start.Add(time.Duration(s) * time.Second)})
			}
		}
		first := e.hold(l, "first", Credential{Expires: start.Add(time.Second)})
		first()
		count := func() int {
			synctest.Wait()
			e.mu.Lock()
			defer e.mu.Unlock()
			return len(e.seen)
		}
		for _, want := range []struct{ at, ended int }{{9, 0}, {10, 4}, {20, 6}, {29, 6}, {30, 8}} {
			<-time.After(time.Until(start.Add(time.Duration(want.at) * time.Second)))
			if n := count(); n != want.ended {
				t.Errorf("after %d s %d have ended, want %d", want.at, n, want.ended)
			}
		}
		for name, err := range e.seen {
			if !errors.Is(err, ErrEnded) {
				t.Errorf("%s: %v", name, err)
			}
		}
		// One that comes later starts the timer again.
		e.hold(l, "again", Credential{Expires: time.Now().Add(time.Second)})
		<-time.After(time.Second)
		if count() != 9 || len(l.expiries) != 0 || len(l.byID) != 0 {
			t.Errorf("%d ended, %d and %d are left", len(e.seen), len(l.expiries), len(l.byID))
		}
	})
}
