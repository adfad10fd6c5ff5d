{{/* Fast up; down by one pod a minute, and only after a time in which fewer were enough. */}}
{{- define "tta.scalingBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies: [{type: Percent, value: 100, periodSeconds: 30}, {type: Pods, value: 2, periodSeconds: 30}]
scaleDown:
  stabilizationWindowSeconds: {{ .Values.autoscaling.scaleDownSeconds }}
  policies: [{type: Pods, value: 1, periodSeconds: 60}]
{{- end }}

{{/* Takes a list: the root, a name, the target, the query. */}}
{{- define "tta.trigger" -}}
{{- $keda := (index . 0).Values.autoscaling.keda -}}
- type: prometheus
  name: {{ index . 1 }}
  metricType: Value
  metadata:
    serverAddress: {{ $keda.prometheusAddress | quote }}
    threshold: {{ index . 2 | quote }}
    ignoreNullValues: "false" # without figures the number of pods stays as it is
    query: |-
      {{- index . 3 | nindent 6 }}
  {{- with $keda.authenticationRef }}
  authenticationRef: {name: {{ . }}}
  {{- end }}
{{- end }}

{{- define "tta.backlogQuery" -}}
{{- $labels := include "tta.promSelector" . -}}
sum(tta_backlog_seconds{ {{- $labels -}} })
/ sum(tta_slots{ {{- $labels -}} ,device="{{ .Values.autoscaling.keda.device }}"})
{{- end }}

{{/*
Slot seconds a second that all wanted views would take, over the slots: each model's batches times views wanted over
views run, and on cores decoding, which a slot does too. It goes on rising where K shrinks. Without requests it is 0.
*/}}
{{- define "tta.demandQuery" -}}
{{- $labels := include "tta.promSelector" . -}}
(
  sum(
    sum by (model) (rate(tta_batch_seconds_sum{ {{- $labels -}} }[2m]))
    * sum by (model) (rate(tta_wanted_views_total{ {{- $labels -}} }[2m]))
    / (sum by (model) (rate(tta_views_sum{ {{- $labels -}} }[2m])) > 0)
  )
  {{- if eq .Values.autoscaling.keda.device "cpu" }}
  + sum(rate(tta_stage_seconds_sum{ {{- $labels -}} ,stage="decode"}[2m]))
  {{- end }}
)
/ sum(tta_slots{ {{- $labels -}} ,device="{{ .Values.autoscaling.keda.device }}"})
or 0 * sum(tta_slots{ {{- $labels -}} })
{{- end }}
