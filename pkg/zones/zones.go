// Package zones keeps what a zone tells the others of itself: where its ingresses are, and how many instances of
// each service are behind them. It is derived from the zone's own dataplanes and written to its store, from where
// it goes the way of all that flows between zones.
package zones

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

const (
	// pause is how long what happens after a write is collected before the next.
	pause = 100 * time.Millisecond
	// retry is how long a write waits that found no room.
	retry = time.Second
	// maxPuts bounds a batch.
	maxPuts = 1000
)

// Options of an Announcer.
type Options struct {
	// Log is the zone's config log.
	Log store.Log
	// Zone is the name of this zone.
	Zone   string
	Logger *slog.Logger
}

// Announcer keeps the ZoneIngresses and ZoneServices of this zone.
type Announcer struct {
	o Options

	proxies map[resource.Key]said
	// services and ingresses are what there should be.
	services  map[resource.Key]*tally
	ingresses map[resource.Key]*systemv1.ZoneIngress
	// fallback is the address of ingresses that have none; nil: they are not reachable.
	fallback *systemv1.ZoneIngress
	// dirty are the keys that have to be looked at.
	dirty map[resource.Key]struct{}
}

// said is what one dataplane adds.
type said struct {
	services []resource.Key
	ingress  resource.Key
}

type tally struct {
	tags      map[string]string
	instances uint32
}

// New makes an Announcer.
func New(o Options) *Announcer { return &Announcer{o: o} }

// Run follows the config log until the context ends or the store is closed.
func (a *Announcer) Run(ctx context.Context) error {
	for {
		err := a.follow(ctx)
		switch {
		case ctx.Err() != nil, errors.Is(err, store.ErrClosed):
			return nil
		case !errors.Is(err, store.ErrCompacted):
			return fmt.Errorf("tell other zones of this one: %w", err)
		}
	}
}

func (a *Announcer) follow(ctx context.Context) error {
	v := a.o.Log.View()
	w, err := a.o.Log.Watch(store.Everything(), v.At())
	if err != nil {
		return err
	}
	defer w.Close()
	a.reset(v)
	for {
		wrote, err := a.write(ctx, v)
		if err != nil {
			return err
		}
		if wrote {
			if err := wait(ctx, pause); err != nil {
				return err
			}
		}
		c, err := w.Next(ctx)
		if err != nil {
			return err
		}
		v = c.View
		for _, x := range c.Items {
			a.take(x.Key, x.Object)
		}
	}
}

// reset starts from a view. What is there already is held against what should be.
func (a *Announcer) reset(v store.View) {
	a.proxies, a.services = map[resource.Key]said{}, map[resource.Key]*tally{}
	a.ingresses, a.dirty = map[resource.Key]*systemv1.ZoneIngress{}, map[resource.Key]struct{}{}
	a.fallback = nil
	for _, kind := range []resource.Kind{resource.KindZone, resource.KindDataplane, resource.KindZoneIngress, resource.KindZoneService} {
		for o := range v.Scan(store.OfKind(kind)) {
			a.take(o.Key, o)
		}
	}
}

// take notes an object as it is now; nil: it is gone.
func (a *Announcer) take(k resource.Key, o *resource.Object) {
	switch k.Kind {
	case resource.KindDataplane:
		if o != nil && o.Origin != resource.Local {
			o = nil
		}
		a.takeDataplane(k, o)
	case resource.KindZone:
		if k.Name == a.o.Zone {
			a.takeZone(o)
		}
	case resource.KindMesh:
		for s := range a.services {
			if s.Scope == k.Name {
				a.dirty[s] = struct{}{}
			}
		}
	case resource.KindZoneIngress, resource.KindZoneService:
		if o == nil || o.Origin == resource.Local {
			a.dirty[k] = struct{}{}
		}
	}
}

// takeZone notes the address that the zone gives for its ingresses (spec 0.17).
func (a *Announcer) takeZone(o *resource.Object) {
	a.fallback = nil
	if o != nil {
		if spec, err := resource.Decode[systemv1.Zone](o); err == nil {
			host, number, _ := net.SplitHostPort(spec.GetIngress().GetAddress())
			if port, err := strconv.ParseUint(number, 10, 16); err == nil && host != "" {
				a.fallback = &systemv1.ZoneIngress{Address: host, Port: uint32(port)}
			}
		}
	}
	for k := range a.ingresses {
		a.dirty[k] = struct{}{}
	}
}

func (a *Announcer) takeDataplane(k resource.Key, o *resource.Object) {
	for _, s := range a.proxies[k].services {
		if a.services[s].instances--; a.services[s].instances == 0 {
			delete(a.services, s)
		}
		a.dirty[s] = struct{}{}
	}
	if i := a.proxies[k].ingress; i.Name != "" {
		delete(a.ingresses, i)
		a.dirty[i] = struct{}{}
	}
	delete(a.proxies, k)
	if o == nil {
		return
	}
	spec, err := resource.Decode[meshv1.Dataplane](o)
	if err != nil {
		return
	}
	var now said
	n := spec.GetNetworking()
	for _, in := range n.GetInbound() {
		if in.GetHealth() != nil && !in.GetHealth().GetReady() {
			continue
		}
		if i := n.GetIngress(); i != nil {
			now.ingress = resource.Key{Kind: resource.KindZoneIngress, Name: k.Scope + "." + k.Name}
			a.ingresses[now.ingress] = &systemv1.ZoneIngress{Address: i.GetPublicAddress(), Port: i.GetPublicPort()}
			a.dirty[now.ingress] = struct{}{}
			break
		}
		if in.GetTags()[resource.TagService] == "" {
			continue
		}
		s := resource.Key{Kind: resource.KindZoneService, Scope: k.Scope, Name: resource.ZoneServiceName(in.GetTags())}
		t, ok := a.services[s]
		if !ok {
			t = &tally{tags: in.GetTags()}
			a.services[s] = t
		}
		t.instances++
		a.dirty[s] = struct{}{}
		now.services = append(now.services, s)
	}
	if len(now.services) > 0 || now.ingress.Name != "" {
		a.proxies[k] = now
	}
}

// want is what there should be at a key; nil: nothing.
func (a *Announcer) want(k resource.Key, v store.View) proto.Message {
	if k.Kind == resource.KindZoneService {
		t, ok := a.services[k]
		if _, there := v.Get(resource.Key{Kind: resource.KindMesh, Name: k.Scope}); !ok || !there {
			return nil
		}
		return &systemv1.ZoneService{Tags: t.tags, Instances: t.instances}
	}
	i, ok := a.ingresses[k]
	switch {
	case !ok:
		return nil
	case i.GetAddress() != "" && i.GetPort() != 0:
		return i
	case a.fallback != nil:
		return a.fallback
	default:
		return nil
	}
}

// write brings the store in line, and says whether there was anything to write. What a deleted mesh stood in the
// way of is left: its deletion is on the way.
func (a *Announcer) write(ctx context.Context, v store.View) (wrote bool, err error) {
	for len(a.dirty) > 0 {
		b := store.Batch{Author: store.Author{Who: "zones"}}
		meshes, done := map[string]bool{}, []resource.Key{}
		for k := range a.dirty {
			if len(b.Puts)+len(b.Deletes) == maxPuts {
				break
			}
			done = append(done, k)
			old, have := v.Get(k)
			m := a.want(k, v)
			switch {
			case have && old.Origin != resource.Local:
				a.o.Logger.WarnContext(ctx, "the name is taken by another zone's", slog.String("key", k.String()))
				continue
			case m == nil && have:
				b.Deletes = append(b.Deletes, k)
				continue
			case m == nil:
				continue
			}
			spec, err := resource.Encode(m)
			if err != nil {
				return wrote, fmt.Errorf("%s: %w", k, err)
			}
			if have && bytes.Equal(old.Spec, spec) {
				continue
			}
			b.Puts = append(b.Puts, store.Put{Key: k, Origin: resource.Local, Spec: spec})
			if k.Scope != "" && !meshes[k.Scope] {
				meshes[k.Scope] = true
				b.Guards = append(b.Guards, store.Exists(resource.Key{Kind: resource.KindMesh, Name: k.Scope}))
			}
		}
		if len(b.Puts)+len(b.Deletes) > 0 {
			_, err := a.o.Log.Apply(ctx, b)
			switch {
			case errors.Is(err, store.ErrConflict):
				return true, nil
			case errors.Is(err, store.ErrNoSpace):
				if err := wait(ctx, retry); err != nil {
					return wrote, err
				}
				continue
			case err != nil:
				return wrote, err
			}
			wrote = true
		}
		for _, k := range done {
			delete(a.dirty, k)
		}
	}
	return wrote, nil
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
