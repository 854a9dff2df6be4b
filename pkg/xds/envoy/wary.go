package envoy

import (
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

// A dead zone has to be left within 3 s, without any control plane. A connection on which nothing comes back is
// found out by pings within 2 s, one that can't be made within the cluster's connect timeout; whoever has failed
// twice in a row is left out for 3 s the first time.
const (
	pingInterval, pingTimeout = time.Second, time.Second
	ejectAfter                = 2
	ejectFor, ejectForMost    = 3 * time.Second, 15 * time.Second
	// maxRetries under way at a time: when a zone dies all that was sent there is tried again at once. Envoy's own
	// limit is 3, and beyond it requests fail.
	maxRetries = 1024
	// panicBelow is the share of healthy endpoints, in percent, below which health is not looked at: when all
	// are left out, all are tried.
	panicBelow = 1
)

// watchful lets a cluster find out by itself who can't be reached. What endpoints answer is not looked at.
func watchful(m *clusterv3.Cluster, c *plan.Cluster) {
	if !c.Wary {
		return
	}
	never := func() *wrapperspb.UInt32Value { return wrapperspb.UInt32(0) }
	m.OutlierDetection = &clusterv3.OutlierDetection{
		SplitExternalLocalOriginErrors:         true,
		ConsecutiveLocalOriginFailure:          wrapperspb.UInt32(ejectAfter),
		EnforcingConsecutiveLocalOriginFailure: wrapperspb.UInt32(100),
		MaxEjectionPercent:                     wrapperspb.UInt32(100),
		Interval:                               durationpb.New(time.Second),
		BaseEjectionTime:                       durationpb.New(ejectFor),
		MaxEjectionTime:                        durationpb.New(ejectForMost),

		EnforcingConsecutive_5Xx:           never(),
		EnforcingConsecutiveGatewayFailure: never(),
		EnforcingSuccessRate:               never(),
		EnforcingLocalOriginSuccessRate:    never(),
	}
	m.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{MaxRetries: wrapperspb.UInt32(maxRetries)}}}
	m.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{Value: panicBelow}}
	// For what is not HTTP/2: gone hosts are found out, though not processes that stand still.
	m.UpstreamConnectionOptions = &clusterv3.UpstreamConnectionOptions{TcpKeepalive: &corev3.TcpKeepalive{
		KeepaliveTime: wrapperspb.UInt32(1), KeepaliveInterval: wrapperspb.UInt32(1), KeepaliveProbes: wrapperspb.UInt32(2),
	}}
}

// http2 are the options of HTTP/2 towards a cluster.
func http2(c *plan.Cluster) *corev3.Http2ProtocolOptions {
	if !c.Wary {
		return &corev3.Http2ProtocolOptions{}
	}
	return &corev3.Http2ProtocolOptions{ConnectionKeepalive: &corev3.KeepaliveSettings{
		Interval: durationpb.New(pingInterval), Timeout: durationpb.New(pingTimeout),
	}}
}
