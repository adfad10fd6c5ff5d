{{/* What a schema cannot say: keys that need each other. */}}
{{- define "tta.validate" -}}
{{- $v := .Values -}}
{{- $needs := dict "pvc" $v.models.pvc.claimName "hostPath" $v.models.hostPath.path "configMap" $v.models.configMap "inline" $v.models.inline "fetch" $v.models.fetch.url -}}
{{- $keys := dict "pvc" "models.pvc.claimName" "hostPath" "models.hostPath.path" "configMap" "models.configMap" "inline" "models.inline" "fetch" "models.fetch.url" -}}
{{- range $source, $value := $needs }}
{{- if and (eq $v.models.source $source) (empty $value) }}
{{- fail (printf "models.source is %s, which needs %s: set it" $source (get $keys $source)) }}
{{- end }}
{{- if and (ne $v.models.source $source) (not (empty $value)) }}
{{- fail (printf "%s is set, but models.source is %s: set models.source to %s, or leave %s out" (get $keys $source) $v.models.source $source (get $keys $source)) }}
{{- end }}
{{- end }}
{{- if and (hasPrefix "http://" $v.models.fetch.url) (not $v.models.fetch.sha256) }}
{{- fail "models.fetch.url is not encrypted, so its archive may have been changed on the way: set models.fetch.sha256, or take https://" }}
{{- end }}
{{- if and $v.auth.keys.secretName (not $v.auth.client.secretName) $v.metrics.serviceMonitor.enabled }}
{{- fail "auth.keys needs a key for each request, also for /metrics: set auth.client.secretName for the ServiceMonitor" }}
{{- end }}
{{- if and (eq $v.autoscaling.kind "keda") (not $v.autoscaling.keda.prometheusAddress) }}
{{- fail "autoscaling.kind is keda, which needs autoscaling.keda.prometheusAddress, as http://prometheus-operated.monitoring:9090" }}
{{- end }}
{{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) }}
{{- fail (printf "autoscaling.minReplicas is %d, over autoscaling.maxReplicas %d" (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) }}
{{- end }}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) }}
{{- fail "ingress.enabled needs ingress.hosts, as [tta.example.org]" }}
{{- end }}
{{- range $name := list "httpRoute" "grpcRoute" }}
{{- $route := get $v $name }}
{{- if and $route.enabled (not $route.parentRefs) }}
{{- fail (printf "%s.enabled needs %s.parentRefs, as [{name: GATEWAY, namespace: NAMESPACE}]" $name $name) }}
{{- end }}
{{- end }}
{{- if and (not $v.serviceAccount.create) $v.serviceAccount.annotations }}
{{- fail "serviceAccount.annotations are for a service account that the chart makes: set serviceAccount.create, or annotate your own" }}
{{- end }}
{{- range $v.env }}
{{- if hasPrefix "TTA_" .name }}
{{- fail (printf "env has %s: settings of the server belong into settings, which knows their names" .name) }}
{{- end }}
{{- end }}
{{- end }}
