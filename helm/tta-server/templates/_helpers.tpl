{{- define "tta.name" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "tta.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end }}

{{/* Name, namespace and labels; takes a list: the root and the name. */}}
{{- define "tta.metadata" -}}
{{- $root := index . 0 -}}
name: {{ index . 1 }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "tta.labels" $root | nindent 2 }}
{{- end }}

{{- define "tta.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "tta.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}
{{- else if $image.tag }}{{ $image.repository }}:{{ $image.tag }}
{{- else }}{{ $image.repository }}:{{ .Chart.AppVersion }}{{ if .Values.gpu.enabled }}-gpu{{ end }}{{ end }}
{{- end }}

{{- define "tta.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "tta.name" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "tta.scheme" -}}
{{ ternary "https" "http" (ne .Values.tls.secretName "") }}
{{- end }}

{{/* The folder of models in the container; empty: the image's own. */}}
{{- define "tta.modelsPath" -}}
{{- .Values.models.path | default (ternary "" "/models" (eq .Values.models.source "image")) }}
{{- end }}

{{/* A number as the server reads it: Helm holds numbers as floats, and would write 20000000 as 2e+07. */}}
{{- define "tta.text" -}}
{{- if kindIs "slice" . }}{{ join " " . }}
{{- else if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}
{{- else }}{{ . }}{{ end }}
{{- end }}

{{- define "tta.gracePeriod" -}}
{{- $needed := add (ceil .Values.settings.drain_seconds) (ceil (.Values.settings.shutdown_delay_seconds | default 0)) .Values.preStopSeconds 5 -}}
{{- with .Values.terminationGracePeriodSeconds }}
{{- if lt (int64 .) $needed }}
{{- fail (printf "terminationGracePeriodSeconds is %d, but preStopSeconds, settings.shutdown_delay_seconds, settings.drain_seconds and 5 s for the end take %d: raise it, or leave it out" (int64 .) $needed) }}
{{- end }}
{{- end }}
{{- .Values.terminationGracePeriodSeconds | default $needed | int64 }}
{{- end }}

{{- define "tta.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "tta.podSecurityContext" -}}
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{ toYaml .Values.podSecurityContext }}
{{- end }}

{{/* Labels in a selector of PromQL: the pods of this release. */}}
{{- define "tta.promSelector" -}}
namespace="{{ .Release.Namespace }}",service="{{ include "tta.name" . }}"{{ with .Values.autoscaling.keda.selector }},{{ . }}{{ end }}
{{- end }}
