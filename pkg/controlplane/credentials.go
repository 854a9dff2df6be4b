package controlplane

import (
	"context"
	"errors"

	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// Revoked says by a store's config log what was taken back.
func Revoked(log store.Log) auth.Revoked {
	return func(id string) bool {
		_, ok := log.View().Get(resource.Key{Kind: resource.KindRevocation, Name: id})
		return ok
	}
}

// Hold is how long what rests on a credential lasts, in the form that the servers of streams take.
func (b *Base) Hold(c auth.Credential) func(end func(reason error)) (release func()) {
	return func(end func(error)) func() { return b.Live.Hold(c, end) }
}

// followCredentials ends what rests on credentials that the config log takes back after a cursor: it is revoked, or
// the key that signed it is gone, or the Secret that a legacy token was made from has other bytes.
func (b *Base) followCredentials(ctx context.Context, after store.Cursor) error {
	for {
		w, err := b.Store.Config().Watch(store.Everything(), after)
		for err == nil {
			var c store.Changes
			if c, err = w.Next(ctx); err != nil {
				_ = w.Close() // It only frees.
				break
			}
			var ids []string
			for _, i := range c.Items {
				switch i.Key.Kind {
				case resource.KindRevocation, resource.KindPublicKey, resource.KindGlobalPublicKey:
					ids = append(ids, i.Key.Name)
				case resource.KindSecret:
					ids = append(ids, secretID(i.Key))
				}
			}
			b.Live.Changed(ids...)
		}
		if !errors.Is(err, store.ErrCompacted) {
			return err
		}
		after = b.Store.Config().View().At()
		b.Live.CheckAll()
	}
}
