package resource

import (
	"google.golang.org/protobuf/proto"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

const backendPrometheus = "prometheus"

func validateMesh(Key, proto.Message) Violations              { return nil }
func validateDataplane(Key, proto.Message) Violations         { return nil }
func validateTrafficPermission(Key, proto.Message) Violations { return nil }
func validateTrafficRoute(Key, proto.Message) Violations      { return nil }
func validateTimeout(Key, proto.Message) Violations           { return nil }
func validateRetry(Key, proto.Message) Violations             { return nil }
func validateExternalService(Key, proto.Message) Violations   { return nil }
func validateZone(Key, proto.Message) Violations              { return nil }

// ValidateMeshChange says what is wrong with replacing one mesh by another, each valid in itself: a change
// from one CA to another would cut the traffic, so mutual TLS must be disabled in between.
func ValidateMeshChange(before, after *meshv1.Mesh) Violations {
	var v Violations
	was, is := before.GetMtls().GetEnabledBackend(), after.GetMtls().GetEnabledBackend()
	if was != "" && is != "" && was != is {
		v.Add("mtls.enabledBackend", "cannot be changed from one backend to another: disable mutual TLS first")
	}
	return v
}
