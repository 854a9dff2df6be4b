package insight_test

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/pkg/insight"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// certify tells of a certificate that holds for a day.
func (z *zone) certify(name string) insight.Certificate {
	c := insight.Certificate{At: time.Now(), NotAfter: time.Now().Add(24 * time.Hour), Backend: "ca-1"}
	z.Certified(dp(name), c)
	return c
}

func (z *zone) mtls(name string) *meshv1.DataplaneInsight_MTLS {
	m, _ := read[meshv1.DataplaneInsight](z, as(resource.KindDataplaneInsight, dp(name)))
	return m.GetMTls()
}

func mtls(c insight.Certificate, n uint32) *meshv1.DataplaneInsight_MTLS {
	return &meshv1.DataplaneInsight_MTLS{
		CertificateExpirationTime:   timestamppb.New(c.NotAfter),
		LastCertificateRegeneration: timestamppb.New(c.At),
		CertificateRegenerations:    n,
	}
}

func TestCertified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := run(t, "", "a", "b")
		z.connect("s1", "a")
		z.connect("s2", "b")
		z.settle()
		z.equal(z.mtls("a"), (*meshv1.DataplaneInsight_MTLS)(nil))

		// Told at once, each one counted, also those that are written together.
		c := z.certify("a")
		z.settle()
		z.equal(z.mtls("a"), mtls(c, 1))
		z.certify("a")
		c = z.certify("a")
		z.settle()
		z.equal(z.mtls("a"), mtls(c, 3))
		z.equal(z.mtls("b"), (*meshv1.DataplaneInsight_MTLS)(nil))

		// What else happens to the proxy leaves it as it is, and writes nothing of its own.
		z.Counted("s1", insight.Counters{CDS: insight.Counter{Sent: 1}})
		z.Disconnected("s1", time.Now())
		z.settle()
		before := z.revision()
		time.Sleep(time.Hour)
		synctest.Wait()
		z.equal(z.mtls("a"), mtls(c, 3))
		if z.revision() != before {
			t.Error("something was written although nothing happened")
		}

		// Without a stream it is written all the same; the stream may have ended meanwhile.
		c = z.certify("a")
		z.settle()
		z.equal(z.mtls("a"), mtls(c, 4))

		// A dataplane that comes anew begins anew.
		z.apply(store.Batch{Deletes: []resource.Key{dp("a")}})
		z.certify("a")
		z.settle()
		z.write(dp("a"), "")
		z.connect("s3", "a")
		z.settle()
		z.equal(z.mtls("a"), (*meshv1.DataplaneInsight_MTLS)(nil))
		c = z.certify("a")
		z.settle()
		z.equal(z.mtls("a"), mtls(c, 1))
	})
}

func TestCertifiedSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New(memory.Options{})
		first := runOn(t, s, "", "a")
		first.connect("s1", "a")
		c := first.certify("a")
		first.settle()
		first.stop()

		// A proxy that keeps its certificate is told of nothing, and loses nothing.
		second := runOn(t, s, "")
		second.connect("s2", "a")
		second.settle()
		second.equal(second.mtls("a"), mtls(c, 1))

		c = second.certify("a")
		second.settle()
		second.equal(second.mtls("a"), mtls(c, 2))
	})
}

func TestCertifiedOnceAcrossFailedWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &failing{Store: memory.New(memory.Options{})}
		z := runOn(t, f, "", "a")
		z.connect("s1", "a")
		z.settle()
		f.broken.Store(true)
		z.certify("a")
		z.settle()
		c := z.certify("a")
		z.settle()
		z.equal(z.mtls("a"), (*meshv1.DataplaneInsight_MTLS)(nil))
		f.broken.Store(false)
		time.Sleep(5 * time.Second)
		z.settle()
		z.equal(z.mtls("a"), mtls(c, 2))
	})
}
